"""What a cluster file may say: images, and what each step needs of Kubernetes. Nothing in the pipeline's code does."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from catalog.config import Params, read_yaml, validate_values
from registry.tracking import commit

Target = Literal["cpu", "cuda"]
TARGETS: dict[str, Target] = {
    "fetch": "cpu",
    "validate": "cpu",
    "featurize": "cuda",
    "gather": "cpu",
    "train": "cuda",
    "launch": "cpu",
    "evaluate": "cpu",
    "register": "cpu",
    "notify": "cpu",
}
USER = 10001  # the images' own
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)($|_)", re.IGNORECASE)
PASSWORD = re.compile(r"//[^/@\s]+@")  # in an address

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


def seconds(duration: str) -> int:
    """Of a `Duration`."""
    return int(duration[:-1]) * SECONDS[duration[-1]]


def tagged(image: str) -> str:
    """An image's name, if it names a version.

    Raises:
        ValueError: where it does not.
    """
    _, colon, tag = image.rpartition("/")[2].partition(":")
    if "@sha256:" not in image and (not colon or tag == "latest"):
        raise ValueError(
            f"'{image}' names no version; KFP reuses results by the image's name, so tag it, not as latest"
        )
    return image


def _public(address: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", address):
        raise ValueError("no address of a page, such as https://HOST, without a password")
    return address


Image = Annotated[str, Field(pattern=r"^[a-z0-9][\w.:/@{}-]*$"), AfterValidator(tagged)]


class Accelerator(Params):
    """A device that Kubernetes counts."""

    type: LabelKey = Field("nvidia.com/gpu", description="the name of the resource")
    count: int = Field(1, ge=1)


class Toleration(Params):
    """As in a pod's `tolerations`."""

    key: LabelKey
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _matches(self) -> Self:
        if (self.operator == "Exists") != (self.value is None):
            raise ValueError("Equal needs a value, and Exists takes none")
        return self


class Retries(Params):
    """What is done after a failure: wait, each time longer."""

    count: int = Field(0, ge=0, le=10)
    wait: Duration = "30s"
    factor: float = Field(2.0, ge=1)
    longest: Duration = "10m"


class Secret(Params):
    """Keys of a Kubernetes secret, as variables of the environment."""

    name: Name
    keys: dict[str, Variable] = Field(min_length=1, description="key of the secret → variable")
    optional: bool = Field(False, description="whether the step may run without it")


class Placement(Params):
    """What a step needs."""

    image: Target | None = Field(None, description="null: what the step is made for")
    cpu: Quantity = "1"
    memory: Memory = "2Gi"
    accelerator: Accelerator | None = None
    node_selector: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    shm: Memory | None = Field(None, description="size of /dev/shm, in memory; counts against `memory`")
    timeout: Duration | None = None
    retries: Retries = Retries()
    env: dict[Variable, str] = Field(default_factory=dict)
    secrets: list[Secret] = Field(default_factory=list)
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _holds(self) -> Self:
        for name, value in self.env.items():
            if SECRET_NAME.search(name) or PASSWORD.search(value):
                raise ValueError(
                    f"env.{name} looks like a secret; put it in a Kubernetes secret, and name that in `secrets`"
                )
        if self.shm and size(self.shm) >= size(self.memory):
            raise ValueError(f"shm {self.shm} counts against memory {self.memory}, and leaves nothing of it")
        return self


def size(memory: str) -> float:
    """Bytes of a `Memory`."""
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]i?)", memory).groups()  # type: ignore[union-attr]
    return float(number) * (1024 if unit.endswith("i") else 1000) ** ("KMGT".index(unit[0]) + 1)


class Cluster(Params):
    """A cluster file."""

    images: dict[Target, Image] = Field(
        {"cpu": "vitrine:{commit}-cpu", "cuda": "vitrine:{commit}-cuda"},
        description="the targets of the Dockerfile; {commit} stands for the commit of this checkout",
    )
    pull_secrets: list[Name] = Field(default_factory=list)
    namespace: Name = "kubeflow"
    service_account: Name | None = None
    pipeline_root: str | None = Field(None, pattern=r"^[a-z0-9]+://\S+$", description="null: KFP's own")
    timezone: str = Field("UTC", description="of KFP's scheduler, which is its CRON_SCHEDULE_TIMEZONE")
    shards: int = Field(1, ge=1, le=256, description="pods that featurize shares its work among")
    nodes: int = Field(1, ge=1, le=64, description="pods that train together, by Kubeflow Trainer")
    storage: Name = Field("vitrine-training", description="claim that these nodes share")
    ui: Annotated[str, AfterValidator(_public)] | None = Field(
        None, description="where people find KFP's pages, for links"
    )
    env: dict[Variable, str] = Field(default_factory=dict, description="of every step")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="of every step's pod")
    defaults: Placement = Placement()
    steps: dict[str, Placement] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _steps_begin_with_the_defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict) or not isinstance(content.get("steps"), dict):
            return content
        defaults = content.get("defaults") or {}
        return content | {
            "steps": {
                name: {**defaults, **own} if isinstance(own, dict) and isinstance(defaults, dict) else own
                for name, own in content["steps"].items()
            }
        }

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := set(self.steps) - set(TARGETS):
            raise ValueError(f"steps.{min(unknown)}: unknown step; known are {', '.join(TARGETS)}")
        if missing := {"cpu", "cuda"} - set(self.images):
            raise ValueError(f"images.{min(missing)} is missing")
        if self.timezone not in available_timezones():
            raise ValueError(
                f"timezone: '{self.timezone}' is none of the IANA database, such as Europe/Paris"
            )
        Placement(env=self.env)
        return self

    def placement(self, step: str) -> Placement:
        """Of one of `TARGETS`; to launch the nodes of a training lasts as long as they may take."""
        if step == "launch" and step not in self.steps:
            train = self.placement("train")
            return self.defaults.model_copy(update={"timeout": train.timeout, "retries": train.retries})
        return self.steps.get(step, self.defaults)

    def image(self, step: str, commit: str) -> str:
        """That a step runs in."""
        return self.images[self.placement(step).image or TARGETS[step]].replace("{commit}", commit)

    def secrets(self) -> dict[str, tuple[set[str], str]]:
        """Name → keys, and the place that asks for it, of all secrets that must be there."""
        found: dict[str, tuple[set[str], str]] = {name: (set(), "pull_secrets") for name in self.pull_secrets}
        for step in TARGETS:
            for one in (secret for secret in self.placement(step).secrets if not secret.optional):
                keys, place = found.get(one.name, (set(), f"steps.{step}.secrets"))
                found[one.name] = keys | set(one.keys), place
        return found


def load(path: Path) -> Cluster:
    """A cluster file, checked.

    Raises:
        DataError: where it cannot be read, a key is unknown or a value out of range; all faults at once.
    """
    return validate_values(Cluster, read_yaml(path), path)


def checkout() -> str:
    """The commit of the code here; "unknown" where nothing tells."""
    return commit() or "unknown"
