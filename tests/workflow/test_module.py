"""The workflow as a module of another one."""

from __future__ import annotations

import yaml

from both_wings import HERE, Project
from conftest import ROOT

OUTER = f"""
configfile: "config/config.yaml"


module winnow:
    snakefile:
        {str(ROOT / "Snakefile")!r}
    config:
        config["winnow"]


use rule * from winnow as winnow_*


rule count:
    default_target: True
    input:
        rules.winnow_pass4.output.columns,
        rules.winnow_check_corpus.output.details,
    output:
        "count.txt",
    shell:
        "wc -l < {{input[0]}} > {{output}}"
"""


def test_another_workflow_uses_its_rules_under_names_of_its_own(tmp_path):
    project = Project.create(tmp_path / "project", shards=1)
    own = yaml.safe_load((project.folder / "config" / "config.yaml").read_text())
    (project.folder / "config" / "config.yaml").write_text(yaml.safe_dump({"winnow": own | {"results": "theirs"}}))
    (project.folder / "Snakefile").write_text(OUTER)
    ran = project.run(*HERE)
    assert {"winnow_pass4", "winnow_check_corpus", "count"} <= set(ran)
    final = (project.folder / "theirs" / "descriptors" / "final_descriptors.txt").read_text().splitlines()
    assert int((project.folder / "count.txt").read_text()) == len(final) > 0
    project.run(*HERE, "--dry-run")
    assert "Nothing to be done" in project.said[-500:]
