"""The CI recipes: valid for the tools that read them, and consistent with the image and the program."""

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


def test_recipe_list_is_complete() -> None:
    """The list has exactly the files of deploy/ci."""
    assert sorted(NAMES) == sorted(file.name for file in FOLDER.iterdir())


@pytest.mark.parametrize("file", SCHEMAS)
async def test_recipe_is_valid_by_its_schema(file: str, tmp_path: Path) -> None:
    """The published schema accepts the file, and rejects an unknown key."""
    check = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[file])
    assert (await ran(*check, str(DEPLOY / file))).code == 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((DEPLOY / file).read_text() + "\nof-nobody: 1\n")
    result = await ran(*check, str(wrong))
    assert result.code == 1
    assert "of-nobody" in result.output, str(result)


@EACH
async def test_recipe_scripts_are_valid_shell(name: str) -> None:
    """bash parses the scripts without running them."""
    assert scripts(name)
    for script in scripts(name):
        result = await ran("bash", "-n", "-c", script)
        assert (result.code, result.errors) == (0, ""), str(result)


@EACH
def test_recipe_command_lines_are_valid(name: str) -> None:
    """The program accepts every command line in the scripts, with all flags."""
    found = [arguments for script in scripts(name) for arguments in command_lines(script)]
    assert found
    for arguments in found:
        check_command(arguments)


@EACH
def test_image_has_this_version(name: str) -> None:
    """Every occurrence has it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    tags = re.findall(rf"{IMAGE}:(\S+)", (FOLDER / name).read_text())
    assert set(tags) == {version}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tekton.yaml"])
def test_recipe_container_is_unprivileged(name: str) -> None:
    """The flags are those of compose.yaml, and the port is on loopback."""
    (run,) = re.findall(rf"docker run --detach .*? {IMAGE}", " ".join(scripts(name)).replace("\\\n", " "), re.DOTALL)
    flags = " ".join(run.split())
    assert all(flag in flags for flag in RIGHTS), flags
    assert "--publish 127.0.0.1:5000:5000" in flags
    parse_size(re.findall(r"MIRROR_MAX_SIZE=(\S+)", flags)[0])


def test_tekton_sidecar_listens_at_the_address_of_the_steps() -> None:
    """The sidecar keeps its cache in the workspace, is unprivileged, and is ready when it answers."""
    spec = document("tekton.yaml")["spec"]
    (sidecar,) = spec["sidecars"]
    env = {one["name"]: one["value"] for one in sidecar["env"]}
    (arguments,) = command_lines(spec["steps"][0]["script"])
    assert arguments[arguments.index("--mirror") + 1] == f"http://{env['MIRROR_LISTEN']}"
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


def test_tekton_example_runs_the_task() -> None:
    """The example's workspaces and parameters are those of the task."""
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


def test_jenkinsfile_is_well_formed() -> None:
    """No Groovy parser is used: braces match, and only flags of a declarative pipeline occur."""
    text = (FOLDER / "Jenkinsfile").read_text()
    bare = re.sub(r"'''.*?'''|'[^']*'|//[^\n]*", "", text, flags=re.DOTALL)
    depth = 0
    for brace in re.findall(r"[{}]", bare):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    known = {"pipeline", "agent", "label", "stages", "stage", "steps", "sh", "post", "always"}
    assert set(shlex.split(re.sub(r"[{}()]", " ", bare))) == known
