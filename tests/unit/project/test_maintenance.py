"""What a maintainer needs is valid: workflows, forms, versions, the changelog's form, licences of what is shipped."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from evertune.assets.packages import PACKAGES

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = {file.name: yaml.safe_load(file.read_text()) for file in sorted(GITHUB.glob("workflows/*.yml"))}
JOBS = {f"{file} {name}": job for file, flow in WORKFLOWS.items() for name, job in flow["jobs"].items()}
SCHEMAS = {
    "github-workflows": [*GITHUB.glob("workflows/*.yml")],
    "github-workflows-require-timeout": [*GITHUB.glob("workflows/*.yml")],
    "dependabot": [GITHUB / "dependabot.yml"],
    "github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / "bug.yml", GITHUB / "ISSUE_TEMPLATE" / "proposal.yml"],
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".css", ".j2", ".sh", ".txt", ".cff", ".typed", ".ci", ".baseline", ""}
"""Code and texts of this project; what has another ending is in the table of licences."""


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_follow_their_schema(schema):
    name = schema if "require" in schema else f"vendor.{schema}"
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", name, *map(str, SCHEMAS[schema])])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_each_step_of_a_workflow_is_a_target_of_make(job):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in job["steps"]:
        if "run" not in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"])
            continue
        matrix = job.get("strategy", {}).get("matrix", {})
        words = re.match(r"make (\$\{\{ matrix\.(\w+) \}\}|[\w-]+)( [A-Z]+=\S.*)?$", step["run"])
        assert words, step["run"]
        assert set(matrix[words[2]] if words[2] else [words[1]]) <= targets


def test_workflows_read_only_unless_a_job_says_why():
    assert [name for name, flow in WORKFLOWS.items() if flow["permissions"] != {"contents": "read"}] == []
    writing = {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job}
    assert writing == {
        "docs.yml deploy": {"pages": "write", "id-token": "write"},
        "release.yml publish": {"id-token": "write"},
    }


def test_every_supported_python_is_tested():
    supported = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)]
    assert WORKFLOWS["checks.yml"]["jobs"]["unit"]["strategy"]["matrix"]["python"] == supported
    first, last = supported[0], supported[-1]
    assert PROJECT["requires-python"] == f">={first},<3.{int(last.split('.')[1]) + 1}"


def test_one_version_everywhere():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_versions_with_dates_and_the_usual_groups():
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    form = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d|unreleased)")
    found = [form.fullmatch(head) for head in heads]
    assert all(found), heads
    versions = [tuple(map(int, one.groups()[:3])) for one in found]
    assert versions == sorted(set(versions), reverse=True)
    assert all(one[4] != "unreleased" for one in found[1:]), "only the top section is unreleased"
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= groups


def test_hooks_run_what_make_runs():
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert len(hooks) >= 4
    assert [hook["entry"] for hook in hooks if hook["entry"] not in makefile] == []


@pytest.mark.parametrize("page", ["SECURITY.md", "CODE_OF_CONDUCT.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_at_the_top_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def tracked() -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip("\0").split("\0")


def tables() -> list[list[list[str]]]:
    """The rows of each table of the page of licences, without its head."""
    text = (ROOT / "docs" / "licences.md").read_text()
    found = [re.findall(r"^\|(.*)\|$", part, re.MULTILINE)[2:] for part in re.split(r"(?m)^## ", text)]
    return [[[cell.strip() for cell in row.split(" | ")] for row in rows] for rows in found if rows]


def test_licences_of_all_files_that_are_no_text_of_this_project():
    patterns = [one for row in tables()[0] for one in re.findall(r"`([^`]+)`", row[0])]
    foreign = [name for name in tracked() if Path(name).suffix not in TEXT or "/checkpoints/" in name]
    unlisted = [name for name in foreign if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert unlisted == [], "docs/licences.md does not say which licence these have"
    assert [one for one in patterns if not fnmatch.filter(tracked(), one)] == [], "of files that are not there"


def test_licences_of_all_packages_that_are_fetched():
    assert {row[0].strip("`"): row[2] for row in tables()[1]} == {name: one.licence for name, one in PACKAGES.items()}


@pytest.mark.slow
def test_the_bill_of_materials_is_valid_and_complete():
    from cyclonedx.output.json import JsonV1Dot6
    from sbom import bill

    made = JsonV1Dot6(bill({"smol"})).output_as_string()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made) is None
    names = {part["name"]: part for part in json.loads(made)["components"]}
    assert {"torch", "transformers", "gguf", *PACKAGES, "tiny-aligned/model.safetensors"} <= set(names)
    assert not {"pytest", "ruff", "mkdocs-material", "gradio"} & set(names), "what only development needs"
    assert names["torch"]["licenses"]
