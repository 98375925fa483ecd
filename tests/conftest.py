"""Fixtures for every package."""

import builtins
import gc
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from catalog.schema import DERIVED, EXACT, IRRELEVANT, SPLITS, SUBSTITUTE
from catalog.store import TableWriter

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest_plugins = [
    "chain_fixtures",
    "embedder_fixtures",
    "milvus_fixtures",
    "model_fixtures",
    "webhook_fixtures",
]

# How long an example takes depends on the machine, and is measured in bench/.
settings.register_profile("vitrine", deadline=None)
settings.load_profile("vitrine")

# Each worker of pytest-xdist has a core, and so have the processes it starts; more threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Imports create a million objects that stay; the garbage collector need not look at them, see below.
gc.disable()

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "data"

# The files that take longest, in this order: no worker of pytest should start one last.
LONGEST = (
    "test_chain.py",
    "test_day.py",
    "registry/test_local_stack.py",
    "serving/demo/test_demo.py",
    "serving/test_service_process.py",
    "test_kill.py",
    "serving/test_ui.py",
    "pipelines/test_fetch.py",
    "pipelines/test_local.py",
    "components/test_pages.py",
    "serving/test_served.py",
    "test_docs.py",
    "test_examples.py",
    "components/test_finetune.py",
    "components/test_validate.py",
    "pipelines/test_nodes.py",
    "registry/test_champion_scoring.py",
    "eval/test_report.py",
    "registry/test_judging.py",
    "components/test_register.py",
    "serving/demo/test_page.py",
    "registry/test_model_registry.py",
    "catalog/test_threads.py",
    "catalog/test_damaged.py",
    "fusion/training/test_objective.py",
)

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "blue", "shirt", "shoe", "##s", "a"]
SMALL: dict[str, Any] = {
    "vocab_size": len(PIECES),
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 14,
    "initializer_range": 0.5,  # far from the usual 0.02, so that texts get different vectors
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", metavar="DIR", help="save screenshots of pages of the project's own chain"
    )


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with a browser as slow; put the longest files first, then others with slow tests."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    slow = {
        item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("services")
    }
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    assert all(path.exists() for path in rank), "a file of LONGEST is missing"

    def place(item: pytest.Item) -> tuple[int, bool, int]:
        return rank.get(item.path, len(rank)), item.path not in slow, len(item.path.parts)

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Start the garbage collector, without the objects of the imports."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _keep_print() -> Iterator[None]:
    """Restore `print`: kfp's local runner replaces it by one that indents, and may leave that behind."""
    function = builtins.print
    yield
    builtins.print = function


@pytest.fixture(scope="session")
def screenshots(request: pytest.FixtureRequest) -> Path | None:
    """The folder for screenshots, which then show the project's own chain; None without the option."""
    folder = request.config.getoption("--screenshots")
    return ROOT / folder if folder else None


@pytest.fixture
def real_data() -> Path:
    """The folder of real data next to the checkout; the test is skipped if it is missing."""
    if not REAL.is_dir():
        pytest.skip(f"no real data in {REAL}")
    return REAL


@pytest.fixture
def cases() -> Path:
    """The folder of inputs that failed, next to the checkout; the test is skipped if it is missing."""
    if not (folder := REAL.parent / "cases").is_dir():
        pytest.skip(f"no cases in {folder}")
    return folder


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Encode a picture of random noise: png(seed, width, height)."""

    def draw(seed: int, width: int = 48, height: int = 40) -> bytes:
        stream = io.BytesIO()
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(stream, "PNG")
        return stream.getvalue()

    return draw


@pytest.fixture
def tiny_tables(png: Callable[..., bytes]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a valid data set, to break before they are written: p0 … p11 (p11 without a picture), and in each
    split two queries for two products each, the first by text, the second by picture."""
    words = [
        "red",
        "blue",
        "green",
        "black",
        "white",
        "grey",
        "pink",
        "brown",
        "gold",
        "navy",
        "teal",
        "plum",
    ]
    products: list[dict[str, Any]] = [
        {
            "product_id": f"p{n}",
            "title": f"{word.title()} shirt",
            "category": "clothing/shirt",
            "price": 10.0 + n,
            "images": [{"bytes": png(n), "path": f"p{n}.png"}] if n < 11 else None,
        }
        for n, word in enumerate(words)
    ]
    queries, judgements = [], []
    for n, split in enumerate(split for split in SPLITS for _ in range(2)):
        photo = {"bytes": png(100 + n), "path": None}
        content = {"image": photo} if n % 2 else {"text": f"{words[2 * n]} or {words[2 * n + 1]} shirt"}
        segment = "image" if n % 2 else "text"
        query = {"query_id": f"q{n}", "split": split, "segment": segment, "judged_by": DERIVED}
        queries.append(query | content)
        grades = {2 * n: EXACT, 2 * n + 1: EXACT, (2 * n + 2) % 12: SUBSTITUTE, (2 * n + 5) % 12: IRRELEVANT}
        judgements += [
            {"query_id": f"q{n}", "product_id": f"p{product}", "grade": grade}
            for product, grade in grades.items()
        ]
    return {"products": products, "queries": queries, "judgements": judgements}


@pytest.fixture
def write_data(tmp_path: Path) -> Callable[[dict[str, list[dict[str, Any]]]], Path]:
    """Write tables of rows as a data set into a fresh folder."""

    def write(tables: dict[str, list[dict[str, Any]]]) -> Path:
        data = tmp_path / "data"
        for table, rows in tables.items():
            with TableWriter(data, table) as writer:
                for row in rows:
                    writer.write(row)
        return data

    return write


@pytest.fixture
def tiny_data(
    tiny_tables: dict[str, list[dict[str, Any]]],
    write_data: Callable[[dict[str, list[dict[str, Any]]]], Path],
) -> Path:
    """A valid data set of 12 products and 6 queries; a fresh copy for each test."""
    return write_data(tiny_tables)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tokenizer of a published text encoder; its vocabulary is `PIECES`."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    wordpiece = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token=PIECES[1]))
    wordpiece.normalizer = normalizers.Lowercase()
    wordpiece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wordpiece.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=wordpiece, **special)


@pytest.fixture(scope="session")
def bert(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a text encoder, tiny, with random weights; tests must not change it."""
    import torch
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a CLIP with both towers, tiny, with random weights; tests must not change it."""
    import torch
    import transformers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    text = {key: value for key, value in SMALL.items() if key != "initializer_range"}
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.CLIPConfig(
        text_config=text | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0},
        vision_config=vision | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    config.text_config.projection_dim = config.vision_config.projection_dim = 12
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Chrome]":
    """Headless Chromium that logs the requests and the console of pages."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("no chromium and chromedriver here; on Debian: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for word in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-background-networking",
        "disable-sync",
    ):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    with Chrome(options, ChromeService(driver)) as chrome:
        yield chrome


@pytest.fixture
def axe(browser: "Chrome") -> Callable[[], list[str]]:
    """Check the page in the browser with axe-core: its serious and critical violations, one line each."""
    script = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
    run = "axe.run().then(result => arguments[arguments.length - 1](result.violations))"

    def check() -> list[str]:
        browser.execute_script(script)
        return [
            f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node['failureSummary']}"
            for violation in browser.execute_async_script(run)
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    return check


@pytest.fixture(scope="session")
def sent_requests(browser: "Chrome") -> Callable[[], list[dict[str, Any]]]:
    """Read the requests since the last call: events of Chromium, each with a `request` and its `url`."""

    def read() -> list[dict[str, Any]]:
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        return [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    return read


@pytest.fixture
def requested(
    browser: "Chrome", sent_requests: Callable[[], list[dict[str, Any]]]
) -> Callable[[], list[str]]:
    """Read the URLs that the page has requested, except its own and data URLs."""
    sent_requests()  # drop those of earlier pages

    def read() -> list[str]:
        page = browser.current_url
        urls = {event["request"]["url"] for event in sent_requests() if event["documentURL"] == page}
        assert page in urls, "the log must hold the page itself"
        return [url for url in urls - {page} if not url.startswith("data:")]

    return read


WIDTHS = (390, 768, 1400)  # pixels: a phone, a tablet, a screen


@pytest.fixture(params=WIDTHS)
def width(browser: "Chrome", request: pytest.FixtureRequest) -> int:
    """Each width that pages must fit, with the browser's window set to it."""
    size = {"width": request.param, "height": 844, "deviceScaleFactor": 1, "mobile": request.param < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return request.param
