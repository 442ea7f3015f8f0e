"""The recipes for CI: well-formed for what reads them, and in agreement with the image and with the program."""

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from mirror.config import parse_size
from tests.deploy.files import DEPLOY, ROOT
from tests.deploy.program import check_command
from tests.deploy.recipes import FOLDER, IMAGE, NAMES, command_lines, document, scripts
from tests.real.program import ran

EACH = pytest.mark.parametrize("name", NAMES)
SCHEMAS = {
    "ci/github-actions.yaml": "vendor.github-workflows",
    "ci/gitlab-ci.yaml": "vendor.gitlab-ci",
    "docker/compose.yaml": "vendor.compose-spec",
}
RIGHTS = {"--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--tmpfs /tmp"}


def test_there_is_a_test_for_each_recipe() -> None:
    """And each for a recipe."""
    assert sorted(NAMES) == sorted(file.name for file in FOLDER.iterdir())


@pytest.mark.parametrize("file", SCHEMAS)
async def test_it_is_what_its_schema_asks_for(file: str, tmp_path: Path) -> None:
    """With the published schema; and with a key that is none, it is not."""
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[file])
    assert (await ran(*check, str(DEPLOY / file))).code == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DEPLOY / file).read_text() + "\nof-nobody: 1\n")
    said = await ran(*check, str(wrong))
    assert said.code == 1
    assert "of-nobody" in said.output, str(said)


@EACH
async def test_its_scripts_are_shell(name: str) -> None:
    """Read by bash, not run."""
    assert scripts(name)
    for script in scripts(name):
        said = await ran("bash", "-n", "-c", script)
        assert (said.code, said.errors) == (0, ""), str(said)


@EACH
def test_the_program_understands_what_it_is_told(name: str) -> None:
    """Each command line in a script, with all its flags."""
    found = [words for script in scripts(name) for words in command_lines(script)]
    assert found
    for words in found:
        check_command(words)


@EACH
def test_the_image_is_this_version(name: str) -> None:
    """Wherever it is named."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = re.findall(rf"{IMAGE}:(\S+)", (FOLDER / name).read_text())
    assert set(tags) == {version}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tekton.yaml"])
def test_the_container_has_no_right_that_it_does_not_need(name: str) -> None:
    """As in compose.yaml; and its port is on loopback."""
    (run,) = re.findall(rf"docker run --detach .*? {IMAGE}", " ".join(scripts(name)).replace("\\\n", " "), re.DOTALL)
    words = " ".join(run.split())
    assert all(flag in words for flag in RIGHTS), words
    assert "--publish 127.0.0.1:5000:5000" in words
    parse_size(re.findall(r"MIRROR_MAX_SIZE=(\S+)", words)[0])


def test_tektons_sidecar_listens_where_its_steps_ask() -> None:
    """It keeps its cache in the workspace, has no rights, and is ready when it answers."""
    spec = document("tekton.yaml")["spec"]
    (sidecar,) = spec["sidecars"]
    env = {one["name"]: one["value"] for one in sidecar["env"]}
    (told,) = command_lines(spec["steps"][0]["script"])
    assert told[told.index("--mirror") + 1] == f"http://{env['MIRROR_LISTEN']}"
    check_command(sidecar["args"])
    assert {one["mountPath"] for one in sidecar["volumeMounts"]} == {env["MIRROR_CACHE"]}
    workspaces = {one["name"] for one in spec["workspaces"]}
    assert set(re.findall(r"\$\(workspaces\.(\w+)\.", (FOLDER / "tekton.yaml").read_text())) == workspaces
    security = sidecar["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    written, read = (step["volumeMounts"][0] for step in spec["steps"])
    assert written["name"] == read["name"] == spec["volumes"][0]["name"]
    assert f"> {written['mountPath']}/mirror.conf" in spec["steps"][0]["script"]
    assert read["mountPath"] == "/etc/containers/registries.conf.d"


def test_tektons_example_runs_the_task() -> None:
    """Its workspaces and parameters are those that the task has."""
    text = (FOLDER / "tekton.yaml").read_text()
    (example,) = re.findall(r"(?ms)^# (apiVersion: .*)\Z", text)
    run = yaml.safe_load(example.replace("\n# ", "\n"))
    task = document("tekton.yaml")
    assert run["spec"]["taskRef"]["name"] == task["metadata"]["name"]
    for what in ("params", "workspaces"):
        assert [one["name"] for one in run["spec"][what]] == [one["name"] for one in task["spec"][what]]
    template = run["spec"]["podTemplate"]
    assert template["securityContext"]["fsGroup"] == task["spec"]["sidecars"][0]["securityContext"]["runAsGroup"]
    assert template["enableServiceLinks"] is False


def test_jenkins_braces_match() -> None:
    """There is nothing here that reads Groovy: its blocks, and the words that a declarative pipeline has."""
    text = (FOLDER / "Jenkinsfile").read_text()
    bare = re.sub(r"'''.*?'''|'[^']*'|//[^\n]*", "", text, flags=re.DOTALL)
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    known = {"pipeline", "agent", "label", "stages", "stage", "steps", "sh", "post", "always"}
    assert set(shlex.split(re.sub(r"[{}()]", " ", bare))) == known
