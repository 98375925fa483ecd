"""BM25 on Chinese titles compared with BM25 over words of jieba, a segmenter with a dictionary.

python bench/languages.py [--products 4200]

Titles are drawn from the lists below, as shops write them: a brand, who it is for, properties, a kind, a size. Queries
name a kind and one to three of a product's properties, in any order, without blanks. Products with all of them are
exact, others of the same kind are substitutes. The peer has bm25s' defaults, as our index has.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from vitrine_judge.metrics import score
from vitrine_judge.rankings import Qrels, Run

from catalog import store
from catalog.schema import EXACT, SUBSTITUTE
from fusion.search.lexical_index import LexicalIndex
from fusion.search.vector_index import top_positions


def _list_words(text: str) -> list[str]:
    return text.split()


BRANDS = _list_words(
    "云杉 海岚 青禾 木棉 星野 晨曦 若水 北辰 南屿 山茶 白鹭 栖霞 观澜 听雨 拾光 暖阳 半夏 清欢 知秋 "
    "逐风 远航 乐居 优品 简木 悦己 初见 良工 匠心坊 雅集 麦田 竹里 溪谷 沐川 锦程 安宁 佳禾 瑞丰 金石 "
    "玉泉 银杏 紫藤 丹枫 蓝鲸 飞鹿 小熊猫 大雁 灵犀 雪松 橙果 石榴 贝壳 珊瑚 极光 银河 月牙 云朵 森林 "
    "原野 草本 蜂鸟 Norvik Lumo Arden"
)
PEOPLE = _list_words("男士 女士 儿童 宝宝 学生 老人 情侣 青少年 孕妇 上班族 户外 家用 商务 旅行 办公室 宿舍")
PROPERTIES = _list_words(
    "防水 加厚 轻薄 透气 保暖 便携 可折叠 大容量 静音 防滑 耐磨 速干 防晒 抗菌 加绒 宽松 修身 高腰 "
    "复古 简约 时尚 可爱 北欧风 中式 日系 韩版 欧美 高端 智能 无线 充电式 可水洗 多功能 迷你 超大 "
    "加长 加宽 圆领 立领 连帽 短袖 长袖 无袖 印花 条纹 格子 波点 刺绣 蕾丝 纯色 渐变 磨砂 哑光 透明 "
    "环保 食品级 不粘 耐高温 防摔 防尘 防蓝光 可调节 双层 三层 升级款 新款"
)
COLOURS = _list_words(
    "红色 蓝色 黑色 白色 绿色 黄色 粉色 紫色 灰色 棕色 米色 橙色 金色 银色 藏青色 酒红色 墨绿色 "
    "卡其色 天蓝色 奶白色"
)
MATERIALS = _list_words(
    "纯棉 真丝 亚麻 羊毛 羊绒 牛仔 真皮 帆布 涤纶 尼龙 不锈钢 玻璃 陶瓷 实木 竹制 硅胶 铝合金 塑料 "
    "橡胶 棉麻 雪纺 珊瑚绒 鹅绒 铸铁 紫砂 骨瓷 藤编 乳胶 记忆棉 钛钢"
)
KINDS = _list_words(
    "连衣裙 衬衫 T恤 牛仔裤 半身裙 羽绒服 风衣 毛衣 卫衣 西装 睡衣 内裤 袜子 围巾 手套 帽子 皮带 领带 "
    "运动鞋 跑步鞋 高跟鞋 靴子 凉鞋 拖鞋 雨鞋 手提包 双肩包 钱包 行李箱 腰包 手表 项链 耳环 戒指 "
    "太阳镜 雨伞 保温杯 水壶 茶壶 茶杯 咖啡机 电饭煲 炒锅 汤锅 菜刀 砧板 餐具 饭盒 榨汁机 烤箱 微波炉 "
    "电水壶 吸尘器 电熨斗 吹风机 剃须刀 电动牙刷 加湿器 空气净化器 电风扇 台灯 落地灯 床单 被套 枕头 "
    "毛毯 窗帘 地毯 沙发 餐桌 书桌 椅子 书架 衣柜 鞋柜 收纳箱 衣架 毛巾 浴巾 浴帘 瑜伽垫 哑铃 跳绳 "
    "帐篷 睡袋 自行车 头盔 篮球 羽毛球拍 吉他 笔记本 钢笔 文件夹 积木 毛绒玩具 婴儿车 奶瓶 猫粮 狗窝 "
    "花盆"
)
SIZES = _list_words(
    "500毫升 750毫升 1升 2升 均码 大码 加大码 一米五 一米八 两件套 三件套 四件套 12寸 24寸 26厘米 "
    "30厘米 100支 5公斤"
)
QUERIES = 800
DEPTH = 100


def draw_products(count: int, rng: np.random.Generator) -> tuple[list[str], list[set[str]]]:
    """Draw titles, and the words of each: its kind, and all that a query can name."""
    titles, words = [], []
    for _ in range(count):
        kind = str(rng.choice(KINDS))
        properties = list(rng.choice(PROPERTIES, 2 + int(rng.integers(3)), replace=False))
        described = [*properties, str(rng.choice(COLOURS)), str(rng.choice(MATERIALS))]
        order = rng.permutation(len(described))
        brand, people, size = (str(rng.choice(words)) for words in (BRANDS, PEOPLE, SIZES))
        parts = [people, *(str(described[position]) for position in order)]
        if rng.random() < 0.3:  # the kind is not always the last word
            parts.insert(int(rng.integers(len(parts))), kind)
            titles.append(f"{brand} {''.join(parts)} {size}")
        else:
            titles.append(f"{brand}{''.join(parts)}{kind}{size}")
        words.append({brand, people, size, kind, *map(str, described)})
    return titles, words


def draw_queries(words: Sequence[set[str]], rng: np.random.Generator) -> dict[str, dict[str, int]]:
    """Draw queries with their grades: a kind and other words of a product, without blanks."""
    queries: dict[str, dict[str, int]] = {}
    while len(queries) < QUERIES:
        chosen = words[int(rng.integers(len(words)))]
        (kind,) = chosen & set(KINDS)
        others = sorted(chosen - {kind})
        named = [str(word) for word in rng.choice(others, 1 + int(rng.integers(3)), replace=False)]
        grades = {
            str(row): EXACT if set(named) <= product else SUBSTITUTE
            for row, product in enumerate(words)
            if kind in product
        }
        parts = [*named, kind] if rng.random() < 0.8 else [kind, *named]
        queries["".join(parts)] = grades
    return queries


def build_ours(titles: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Build our index; returns a function of a query that scores all products."""
    with tempfile.TemporaryDirectory() as folder:
        with (
            store.new_atomic_dir(Path(folder) / "data") as data,
            store.TableWriter(data, "products") as table,
        ):
            for row, title in enumerate(titles):
                table.write({"product_id": str(row), "title": title})
        index = LexicalIndex.build(Path(folder) / "data")
    return lambda query: index.index.get_scores(index.analyser.query_tokens(query))


def build_jieba(titles: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Build the peer's index; as `build_ours`."""
    import bm25s
    import jieba

    index = bm25s.BM25()
    index.index([jieba.lcut_for_search(title) for title in titles], show_progress=False)
    return lambda query: index.get_scores(jieba.lcut_for_search(query))


def rank(search: Callable[[str], np.ndarray], queries: Sequence[str]) -> Run:
    rankings = {}
    for query in queries:
        scores = search(query)
        rows = [row for row in top_positions(scores, DEPTH).tolist() if scores[row] > 0]
        rankings[query] = {str(row): float(scores[row]) for row in rows}
    return Run.from_dict({query: ranking for query, ranking in rankings.items() if ranking})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--products", type=int, default=4200)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    titles, words = draw_products(arguments.products, rng)
    queries = draw_queries(words, rng)
    qrels = Qrels.from_dict(queries)
    means = {}
    for name, build in {"ours": build_ours, "jieba": build_jieba}.items():
        started = time.perf_counter()
        search = build(titles)
        built = time.perf_counter()
        run = rank(search, list(queries))
        milliseconds = 1000 * (time.perf_counter() - built) / len(queries)
        means[name] = score(run, qrels, ["ndcg@10", "recall@100"]).means()
        print(f"{name}: {means[name]}, built in {built - started:.1f} s, {milliseconds:.1f} ms a query")
    print(f"titles such as {titles[0]}, queries such as {next(iter(queries))}")
    print(f"ratio of NDCG@10: {means['ours']['ndcg@10'] / means['jieba']['ndcg@10']:.3f}")


if __name__ == "__main__":
    main()
