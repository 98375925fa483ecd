"""The cluster file: images, and what each step needs from Kubernetes. The pipeline's code holds no such setting."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from catalog.config import Params, read_yaml, validate_values
from registry.lineage import read_commit

Target = Literal["cpu", "cuda"]
TARGETS: dict[str, Target] = {
    "resolve": "cpu",
    "fetch": "cpu",
    "validate": "cpu",
    "require_valid": "cpu",
    "featurize": "cuda",
    "gather": "cpu",
    "train": "cuda",
    "launch": "cpu",
    "index": "cpu",
    "evaluate": "cpu",
    "register": "cpu",
    "refresh": "cpu",
    "monitor": "cpu",
    "notify": "cpu",
}
USER_ID = 10001  # of the images
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)($|_)", re.IGNORECASE)
PASSWORD = re.compile(r"//[^/@\s]+@")  # in a URL

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/ and …/labels/
_DNS = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_LABEL = r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)"
Name = Annotated[str, Field(pattern=rf"^{_DNS}(\.{_DNS})*$", max_length=253)]
LabelKey = Annotated[str, Field(pattern=rf"^({_DNS}(\.{_DNS})*/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^{_LABEL}?$")]
Quantity = Annotated[str, Field(pattern=r"^[1-9]\d*(\.\d+)?(m|[KMGT]i?)?$|^0\.\d+$")]
Memory = Annotated[str, Field(pattern=r"^[1-9]\d*(\.\d+)?[KMGT]i?$")]
Duration = Annotated[str, Field(pattern=r"^[1-9]\d*[smhd]$", description="such as 90s, 30m, 2h")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def parse_duration(duration: str) -> int:
    """Seconds of a `Duration`."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def check_image_tag(image: str) -> str:
    """Return the name of an image if it names a version.

    Raises:
        ValueError: if it does not.
    """
    _, colon, tag = image.rpartition("/")[2].partition(":")
    if "@sha256:" not in image and (not colon or tag == "latest"):
        raise ValueError(
            f"'{image}' names no version; KFP reuses results by image name, so give it a tag other than latest"
        )
    return image


def _check_public_url(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", url):
        raise ValueError("must be the URL of a page, such as https://HOST, without a password")
    return url


Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w.:/@{}-]*$"), AfterValidator(check_image_tag)]


class Accelerator(Params):
    """A device that Kubernetes assigns to pods."""

    type: LabelKey = Field("nvidia.com/gpu", description="name of the Kubernetes resource")
    count: int = Field(1, ge=1)


class Toleration(Params):
    """An entry of a pod's `tolerations`."""

    key: LabelKey
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        if (self.operator == "Exists") != (self.value is None):
            raise ValueError("Equal needs a value; Exists takes no value")
        return self


class Retries(Params):
    """Retries of a step, with a growing wait before each. KFP retries only lost pods: see docs/kubernetes.md."""

    count: int = Field(0, ge=0, le=10)
    wait: Duration = "30s"
    factor: int = Field(2, ge=1)  # Argo reads whole numbers only


class Secret(Params):
    """Keys of a Kubernetes secret, as environment variables."""

    name: Name
    keys: dict[str, Variable] = Field(min_length=1, description="key of the secret → variable")
    optional: bool = Field(False, description="whether the step may run without it")


class Placement(Params):
    """Image, resources and pod settings of a step."""

    image: Target | None = Field(None, description="null: the default image of the step")
    cpu: Quantity = "1"
    memory: Memory = "2Gi"
    accelerator: Accelerator | None = None
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    shm: Memory | None = Field(None, description="size of /dev/shm; counts against `memory`")
    timeout: Duration | None = None
    retries: Retries = Retries()
    env: dict[Variable, str] = Field(default_factory=dict)
    secrets: list[Secret] = Field(default_factory=list)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_secrets_and_memory(self) -> Self:
        for name, value in self.env.items():
            if SECRET_NAME.search(name) or PASSWORD.search(value):
                raise ValueError(
                    f"env.{name} looks like a secret; put it in a Kubernetes secret and list that under `secrets`"
                )
        if self.shm and parse_memory(self.shm) >= parse_memory(self.memory):
            raise ValueError(f"shm {self.shm} counts against memory {self.memory}; it must be smaller")
        return self


def parse_memory(memory: str) -> float:
    """Bytes of a `Memory` value."""
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]i?)", memory).groups()  # type: ignore[union-attr]
    return float(number) * (1024 if unit.endswith("i") else 1000) ** ("KMGT".index(unit[0]) + 1)


class Cluster(Params):
    """A cluster file."""

    images: dict[Target, Image] = Field(
        {"cpu": "vitrine:{commit}-cpu", "cuda": "vitrine:{commit}-cuda"},
        description="by target of the Dockerfile; {commit} is replaced by the commit of this checkout",
    )
    pull_secrets: list[Name] = Field(default_factory=list)
    namespace: Name = "kubeflow"
    service_account: Name | None = None
    pipeline_root: str | None = Field(None, pattern=r"^[a-z0-9]+://\S+$", description="null: KFP's default")
    timezone: str = Field("UTC", description="CRON_SCHEDULE_TIMEZONE of KFP's scheduler")
    shards: int = Field(1, ge=1, le=256, description="number of pods for featurize")
    nodes: int = Field(1, ge=1, le=64, description="number of pods for training, by Kubeflow Trainer")
    storage: Name = Field("vitrine-training", description="volume claim that these pods share")
    ui: Annotated[str, AfterValidator(_check_public_url)] | None = Field(
        None, description="URL of KFP's pages, for links"
    )
    env: dict[Variable, str] = Field(default_factory=dict, description="environment of every step")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="labels of every step's pod")
    defaults: Placement = Placement()
    steps: dict[str, Placement] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _apply_defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("steps"), dict):
            return content
        defaults = content.get("defaults") or {}
        return content | {
            "steps": {
                name: {**defaults, **step} if isinstance(step, dict) and isinstance(defaults, dict) else step
                for name, step in content["steps"].items()
            }
        }

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if unknown := set(self.steps) - set(TARGETS):
            raise ValueError(f"steps.{min(unknown)}: unknown step; known are {', '.join(TARGETS)}")
        if missing := {"cpu", "cuda"} - set(self.images):
            raise ValueError(f"images.{min(missing)} is missing")
        if self.timezone not in available_timezones():
            raise ValueError(
                f"timezone: '{self.timezone}' is not in the IANA database; use e.g. Europe/Paris"
            )
        Placement(env=self.env)
        return self

    def placement(self, step: str) -> Placement:
        """Settings of a step of `TARGETS`.

        `resolve` reads the repository that `fetch` reads, so it takes the settings of `fetch`. `launch` waits for
        training, so it takes timeout and retries of `train`.
        """
        if step == "resolve" and step not in self.steps:
            return self.placement("fetch")
        if step == "launch" and step not in self.steps:
            train = self.placement("train")
            return self.defaults.model_copy(update={"timeout": train.timeout, "retries": train.retries})
        return self.steps.get(step, self.defaults)

    def image(self, step: str, commit: str) -> str:
        """The image that a step runs in."""
        return self.images[self.placement(step).image or TARGETS[step]].replace("{commit}", commit)

    def required_secrets(self, steps: Sequence[str]) -> dict[str, tuple[set[str], str]]:
        """Name → its keys, and the first place in the file that names it, of the secrets that steps must have."""
        secrets: dict[str, tuple[set[str], str]] = {
            name: (set(), "pull_secrets") for name in self.pull_secrets
        }
        # those of the file first: others may take their settings
        for step in [step for step in [*self.steps, *TARGETS] if step in steps]:
            for secret in self.placement(step).secrets:
                if not secret.optional:
                    keys, place = secrets.get(secret.name, (set(), f"steps.{step}.secrets"))
                    secrets[secret.name] = keys | set(secret.keys), place
        return secrets


def load_cluster(path: Path) -> Cluster:
    """Read and check a cluster file.

    Raises:
        DataError: if it cannot be read, a key is unknown or a value is out of range; names all faults.
    """
    return validate_values(Cluster, read_yaml(path), path)


def current_commit() -> str:
    """The commit of this code; "unknown" if it cannot be determined."""
    return read_commit() or "unknown"
