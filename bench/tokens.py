"""The text tower on Chinese titles: `python bench/tokens.py [--products 1000] [--seeds 3]`.

Draws products with titles as shops write them, and queries of two or three properties as people type them, without
blanks. A product is an exact match if it has all properties of the query. Prints the NDCG@10 of test queries, by the
model's text tower and by BM25.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

from catalog import store
from catalog.schema import EXACT, GAINS, IRRELEVANT
from components.featurize import featurize
from components.params import FeaturizeParams, TrainParams
from components.train import train
from fusion.features import Items
from fusion.model import ProductSearchModel, embed
from fusion.search.catalogue_search import build_run_table
from fusion.search.vector_index import top_k

WORDS = {  # separated by blanks here, not in titles
    "brand": "雅风 木棉坊 北岭 青禾 云朵猫 海石 拓野 暖橙 松果屋 米禾 星途 百川 柒叶 白鹭湾 锦川 简溪",
    "season": "春季 夏季 秋冬 冬季 春秋 四季",
    "gender": "男士 女士 儿童 中老年 情侣 婴儿",
    "color": "红色 蓝色 黑色 白色 灰色 米白色 军绿色 粉色 紫色 卡其色 藏青色 黄色",
    "material": "纯棉 羊毛 真皮 亚麻 牛仔 雪纺 针织 羽绒 真丝 不锈钢 陶瓷 实木",
    "style": "宽松 修身 加厚 轻薄 复古 简约 韩版 商务 运动 休闲 防水 透气",
    "category": "连衣裙 衬衫 T恤 牛仔裤 运动鞋 高跟鞋 凉鞋 外套 毛衣 围巾 手提包 双肩包 钱包 帽子 睡衣 袜子 保温杯 "
    "餐具套装 书架 床头柜 台灯 雨伞 太阳镜 手套",
}
FILLERS = "新款 包邮 正品 大码 百搭 网红 长袖 短款 礼盒装 学生 日系 爆款 出口 两件套 加绒 送礼"
ORDERS = (
    ("brand", "season", "gender", "color", "material", "style", "category"),
    ("gender", "category", "season", "material", "style", "color", "brand"),
    ("season", "style", "material", "category", "gender", "color", "brand"),
)
QUERIES = (
    ("color", "material", "category"),
    ("gender", "color", "category"),
    ("brand", "category"),
    ("material", "style", "category"),
)
SHARES = {"train": 0.6, "valid": 0.15, "test": 0.25}
MAX_MATCHES = 12  # of a query


def draw_products(count: int, rng: np.random.Generator) -> list[dict[str, str]]:
    """Properties and title of each product."""
    products = []
    for _ in range(count):
        product = {name: str(rng.choice(values.split())) for name, values in WORDS.items()}
        words = [product[name] for name in ORDERS[rng.integers(len(ORDERS))]]
        for filler in rng.choice(FILLERS.split(), 2, replace=False):
            words.insert(int(rng.integers(len(words) + 1)), str(filler))
        products.append(product | {"title": "".join(words)})
    return products


def draw_queries(products: list[dict[str, str]], rng: np.random.Generator) -> dict[str, list[int]]:
    """Query text → the products that match, for one query a product; frequent combinations are left out."""
    queries: dict[str, list[int]] = {}
    for product in products:
        names = QUERIES[rng.integers(len(QUERIES))]
        matches = [
            row for row, other in enumerate(products) if all(other[name] == product[name] for name in names)
        ]
        if len(matches) <= MAX_MATCHES:
            queries["".join(product[name] for name in names)] = matches
    return queries


def write_data(folder: Path, count: int, seed: int) -> Path:
    """Write a data set without queries whose matches are in several splits."""
    rng = np.random.default_rng(seed)
    products = draw_products(count, rng)
    splits = rng.choice(
        list(SHARES), count, p=list(SHARES.values())
    )  # of products, and of the queries they answer
    tables: dict[str, list[dict[str, Any]]] = {"queries": [], "judgements": []}
    for number, (text, matches) in enumerate(draw_queries(products, rng).items()):
        query, split = f"q{number}", str(splits[matches[0]])
        grades = dict.fromkeys(rng.choice(count, 5).tolist(), IRRELEVANT) | dict.fromkeys(matches, EXACT)
        if len({*splits[matches]}) > 1:
            continue
        tables["queries"].append({"query_id": query, "text": text, "split": split, "segment": "text"})
        tables["judgements"] += [
            {"query_id": query, "product_id": f"p{row}", "grade": grade} for row, grade in grades.items()
        ]
    tables["products"] = [
        {"product_id": f"p{row}", "title": product["title"]} for row, product in enumerate(products)
    ]
    for table, rows in tables.items():
        with store.TableWriter(folder, table) as writer:
            for row in rows:
                writer.write(row)
    return folder


def score_text_tower(data: Path, folder: Path, seed: int, max_tokens: int) -> float:
    """The NDCG@10 of the test queries after training."""
    report, features, model = folder / "report", folder / "features", folder / "model"
    report.mkdir()
    (report / "report.json").write_text(json.dumps({"data": store.fingerprint(data), "passed": True}))
    featurize(data, report, FeaturizeParams(max_tokens=max_tokens), features)
    train(features, TrainParams(seed=seed), model)
    network = ProductSearchModel.load(model)
    products, queries = Items.load(features, "products"), Items.load(features, "queries")
    queries = queries.take(queries.splits == "test")
    best = top_k(embed(network, queries, "query"), embed(network, products, "product"), 10)
    judgements = store.read_table(data, "judgements")
    is_test = pc.is_in(judgements["query_id"], pa.array(queries.ids, pa.string()))
    run = Run.from_table(build_run_table(queries.ids, products.ids, *best))
    return score(run, Qrels.from_table(judgements.filter(is_test)), ["ndcg@10"], gains=GAINS).means()[
        "ndcg@10"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as name:
            data = write_data(Path(name) / "data", arguments.products, seed)
            value = score_text_tower(data, Path(name), seed, arguments.max_tokens)
            print(f"seed {seed}: NDCG@10 {value:.3f}", flush=True)


if __name__ == "__main__":
    main()
