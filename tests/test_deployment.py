"""The Dockerfile and the Kubernetes Job say what the program and the project have."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmgen.cli import COMMANDS
from llmgen.config import RunConfig, load_config, merge
from llmgen.validation import complete, validate

ROOT = Path(__file__).parent.parent
JOB = ROOT / "deploy" / "kubernetes-job.yaml"
USER = 10001


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(JOB.read_text())}


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for word, rest in instructions if word == name]


def test_the_image_has_two_stages_and_the_second_is_not_root(instructions: list[tuple[str, str]]) -> None:
    assert of(instructions, "FROM") == ["${PYTHON} AS build", "${PYTHON}"], "no other image, no package host"
    last = max(number for number, (word, _) in enumerate(instructions) if word == "FROM")
    second = instructions[last:]
    assert of(second, "USER") == [str(USER)]
    assert not any("apt-get" in rest or "pip" in rest for rest in of(second, "RUN")), "nothing is built there"
    assert f"--uid {USER}" in " ".join(of(second, "RUN"))
    assert of(second, "ENTRYPOINT") == ['["llmgen"]']
    assert "http" not in (ROOT / "Dockerfile").read_text(), "names no host"


def test_what_the_image_copies_is_there_and_is_let_in(instructions: list[tuple[str, str]]) -> None:
    allowed = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text()))
    copied = [name for rest in of(instructions, "COPY") if "--from" not in rest for name in shlex.split(rest)[:-1]]
    assert copied
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_installs_extras_that_exist(instructions: list[tuple[str, str]]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"\[([\w,]+)\]\"", " ".join(of(instructions, "RUN")))
    assert set(named.split(",")) <= set(extras)


def test_the_job_runs_what_the_program_takes(documents: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    pod = documents["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, path, *flags = container["args"]
    (command,) = [one for one in COMMANDS if one.name == name]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    assert {flag for flag in flags if flag.startswith("--")} <= known
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    (file,) = documents["ConfigMap"]["data"]
    assert path == f"{mounts['config']}/{file}"
    assert flags[flags.index("--out") + 1] == mounts["results"]
    (tmp_path / file).write_text(documents["ConfigMap"]["data"][file])
    config = merge(load_config(tmp_path / file), {"out": "/results"})
    assert isinstance(config, RunConfig)
    validate(complete(config)[0])
    names = {kind: document["metadata"]["name"] for kind, document in documents.items()}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == names["ConfigMap"]
    assert volumes["results"]["persistentVolumeClaim"]["claimName"] == names["PersistentVolumeClaim"]


def test_the_job_is_not_root_offers_its_load_once_and_has_whole_cores(documents: dict[str, dict[str, Any]]) -> None:
    spec = documents["Job"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == USER
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert int(container["resources"]["limits"]["cpu"]) >= 2
    (secret,) = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "OPENAI_API_KEY"]
    assert secret["name"] in (ROOT / "docs" / "deployment.md").read_text()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert container["image"] == f"llmgen:{version}"
    # a run is drained before it reports
    assert pod["terminationGracePeriodSeconds"] > RunConfig().load.drain
