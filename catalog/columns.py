"""Finds our columns in the header of a table: by name whatever the case and blanks, or by known synonyms."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence

from catalog.schema import DataError

# Table → our column → synonyms; those of an earlier line win, those of one line are equal choices. Names are compared
# without case, blanks and punctuation. English first, then names of other languages.
SYNONYMS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "products": {
        "product_id": (
            "sku id item_id item_no item_number article_number article_no articleid code product_code product_no "
            "product_number product_sku item_sku variant_sku offer_id docid doc_id document_id artikelnummer artnr "
            "referencia référence codice artikelnr kod артикул 商品编号 商品id 商品番号 상품코드",
            "handle asin gtin ean upc barcode",
        ),
        "title": (
            "name product_name product_title item_name item_title article_name display_name",
            "titel bezeichnung produktname artikelname artikelbezeichnung nom nom_du_produit titre nombre título "
            "titulo nome nazwa název naam naziv denumire ürün_adı ürünadı название наименование 商品名称 商品名 标题 "
            "品名 상품명 제품명 ชื่อสินค้า",
            "label headline",
        ),
        "description": (
            "body_html body product_description item_description long_description full_description description_html",
            "beschreibung produktbeschreibung descripción descripcion descrizione descrição descricao opis popis "
            "omschrijving описание açıklama 描述 商品描述 商品説明 説明 설명 상품설명",
            "short_description summary details",
        ),
        "category": (
            "categories category_path product_type category_name product_category breadcrumb breadcrumbs",
            "kategorie catégorie categorie categoría categoria kategoria категория kategori 类目 分类 カテゴリ "
            "카테고리",
            "google_product_category department type taxonomy",
        ),
        "brand": (
            "brand_name manufacturer",
            "marke hersteller marque marca marka merk značka бренд производитель 品牌 ブランド 브랜드",
            "vendor maker",
        ),
        "color": (
            "colour color_name colour_name",
            "farbe couleur cor colore kolor barva kleur renk цвет 颜色 色 색상",
        ),
        "material": (
            "materials material_name fabric",
            "matière matériau materiał materiál materiaal материал 材质 素材",
        ),
        "price": (
            "sale_price current_price selling_price unit_price price_amount price_value variant_price amount",
            "preis prix precio prezzo preço preco cena prijs fiyat цена 价格 価格 가격",
            "regular_price list_price retail_price msrp cost",
        ),
        "currency": (
            "currency_code price_currency price_currency_code",
            "währung devise moneda valuta валюта 货币 通貨",
        ),
        "images": (
            "image",
            "image_link image_url image_src picture pictures picture_url photo photos photo_url img img_url image_urls "
            "image_path main_image main_image_url primary_image thumbnail thumbnail_url",
            "bild bilder bild_url imagen imágenes immagine imagem foto fotos zdjęcie obrázek afbeelding görsel "
            "изображение картинка 图片 画像 이미지",
        ),
        "video": ("video_link video_url clip clip_url",),
        "group_id": ("item_group_id parent_id parent_sku product_group_id variant_group parent_product_id",),
        "available": (
            "availability in_stock is_in_stock stock_status available_for_sale",
            "verfügbarkeit lagerbestand",
        ),
        "language": ("lang locale language_code content_language", "sprache langue idioma lingua язык"),
        "updated_at": ("last_modified modified_at date_modified updated last_updated update_time modified",),
        "max_price": ("price_max highest_price",),
    },
    "queries": {
        "query_id": ("id qid topic topic_id queryid",),
        "text": ("query query_text search search_term search_query keyword keywords q term query_string",),
        "image": ("image_url image_link picture",),
        "segment": ("query_class query_type",),
        "frequency": ("count searches search_count volume search_volume hits impressions",),
    },
    "judgements": {
        "query_id": ("qid topic topic_id",),
        "query": ("query_text search_term search_query keyword keywords q search term query_string",),
        "product_id": ("docid doc_id document_id product sku item_id item asin id",),
        "grade": ("rating relevance label judgement judgment relevance_grade relevance_label gain score",),
    },
    "log": {
        "query": (
            "query_text search_term search_query keyword keywords q search term query_string search_keywords",
        ),
        "product_id": ("docid doc_id document_id product sku item_id product_sku object_id",),
        "position": ("rank pos click_position document_position result_position item_position",),
        "clicked": ("click is_click is_clicked clicks",),
        "event": ("event_type event_name action type",),
        "search_id": ("search_uid search_query_uid query_uid search_event_id query_event_id",),
        "products": (
            "product_skus results result_ids product_ids shown shown_products impressions product_skus_hash",
        ),
        "clicked_products": ("clicked_skus clicked_ids clicked_product_ids clicked_skus_hash",),
    },
}


def simplify_name(name: str) -> str:
    """A column's name without case, accents of compatibility, blanks and punctuation: "Product ID" → "productid"."""
    folded = (
        unicodedata.normalize("NFKC", name).casefold().replace("ı", "i")
    )  # capitals of Turkish have no pairs
    return re.sub(r"[\W_]+", "", folded)


def match_columns(
    file: str,
    table: str,
    header: Sequence[str],
    columns: Sequence[str],
    mapping: Mapping[str, str],
    required: Sequence[str] = (),
) -> dict[str, str]:
    """Find our columns in a header.

    Args:
        file: Name of the file, for messages.
        table: A key of `SYNONYMS`.
        header: Names of the columns of the file.
        columns: Our columns.
        mapping: Our column → name in the file, as the user gives it.
        required: Our columns that the file must have.

    Returns:
        Our column → name in the header.

    Raises:
        DataError: if a name of `mapping` or a required column is missing, or if several names could be one column.
    """
    matches = {ours: _find_given(file, header, theirs) for ours, theirs in mapping.items()}
    for simplified in (False, True):
        for ours in columns:
            if ours not in matches:
                names = _select(header, matches, [ours], simplified)
                if names:
                    matches[ours] = _choose(file, table, ours, names)
    for ours in columns:
        for line in SYNONYMS[table].get(ours, ()):
            if ours not in matches and (names := _select(header, matches, line.split(), True)):
                matches[ours] = _choose(file, table, ours, names)
    if missing := [ours for ours in required if ours not in matches]:
        raise DataError(
            f"{file}: no column for {' and '.join(missing)}; the header is {format_header(header)}; "
            f"name it: {' '.join(f'--map {_qualify(table, ours)}=NAME' for ours in missing)}"
        )
    return matches


def _find_given(file: str, header: Sequence[str], name: str) -> str:
    """The name in the header that a user means."""
    if name in header:
        return name
    names = [theirs for theirs in header if simplify_name(theirs) == simplify_name(name)]
    if len(names) == 1:
        return names[0]
    raise DataError(f"{file}: no column {name}; it has {format_header(header)}")


def _select(
    header: Sequence[str], matches: Mapping[str, str], names: Sequence[str], simplified: bool
) -> list[str]:
    """Names of the header that are one of `names` and not yet used."""
    keys = {simplify_name(name) for name in names} if simplified else set(names)
    used = set(matches.values())
    return [
        theirs
        for theirs in header
        if theirs not in used and (simplify_name(theirs) if simplified else theirs) in keys
    ]


def _choose(file: str, table: str, ours: str, names: Sequence[str]) -> str:
    if len(names) > 1:
        choices = " or ".join(f"--map {_qualify(table, ours)}={shlex.quote(name)}" for name in names)
        raise DataError(f"{file}: {' and '.join(map(repr, names))} could be {ours}; choose one: {choices}")
    return names[0]


def _qualify(table: str, ours: str) -> str:
    """The name of our column in the option --map."""
    return ours if table in {"products", "log"} else f"{table}.{ours}"


def format_header(header: Sequence[str]) -> str:
    """A header on one line; the first 20 columns."""
    names = [name if len(name) <= 40 else f"{name[:40]}…" for name in header[:20]]
    names = [f"'{name}'" if "," in name else name for name in names]
    return ", ".join(names) + (f" and {len(header) - 20} more" if len(header) > 20 else "")


def format_mapping(table: str, matches: Mapping[str, str]) -> str:
    """The options --map that give a mapping."""
    return " ".join(
        f"--map {shlex.quote(f'{_qualify(table, ours)}={theirs}')}" for ours, theirs in matches.items()
    )
