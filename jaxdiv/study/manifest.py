"""`WORKDIR/data`: what was prepared from which archives, and a contact sheet of each benchmark."""

import hashlib
import json
from pathlib import Path
from typing import Any

from jaxdiv.data import contact_sheet, registry, store
from jaxdiv.files import replacing, writing
from jaxdiv.report import data_sets
from jaxdiv.study import seal
from jaxdiv.study.planner import Plan, shown, table_folder


def write(plan: Plan) -> Path | None:
    """Write the manifest and the contact sheets; None where they are there as they were written. Every base set must be
    prepared."""
    study, folder = plan.study, plan.workdir / "data"
    pixels = max(pixels for _, pixels in plan.prepared)
    manifest: dict[str, Any] = {
        "tables": {unit.name.removeprefix("prepare/"): unit.result for unit in plan.prepared.values()},
        "benchmarks": {},
    }
    for name in shown(study):
        parts = [unit.result for unit in plan.parts(name, pixels)]
        splits = {
            split: {what: sum(part[split][what] for part in parts) for what in ("classes", "images")}
            for split in registry.SPLITS
        }
        manifest["benchmarks"][name] = {"components": study.bases(name), "pixels": pixels} | splits
    file, manifest = folder / "manifest.json", json.loads(json.dumps(manifest))
    before = seal.read_json(file)
    sheets = before.pop("contact_sheets", {})
    if before == manifest and sheets and all(_sha256(folder / name) == known for name, known in sheets.items()):
        return None
    with writing(folder, "`folder`"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in shown(study):
            stored = [store.read_table(table_folder(unit)) for unit in plan.parts(name, pixels)]
            with replacing(folder / f"{name}.png") as temporary:
                contact_sheet.contact_sheet(name, stored, study.own, _notes(plan)).save(temporary, "PNG")
        made = {f"{name}.png": _sha256(folder / f"{name}.png") for name in shown(study)}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps({**manifest, "contact_sheets": made}, indent=1))
    return file


def _sha256(file: Path) -> str | None:
    """Of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _notes(plan: Plan) -> dict[str, list[str]]:
    """What was recognised in the user's data sets, and what was left out of them, in lines."""
    results = {unit.spec.base: unit.result for unit in plan.prepared.values() if unit.spec.base in plan.own}
    return {
        name: [*found["notes"], *data_sets.read(found["changed"], found["left_out"])] for name, found in results.items()
    }


def news(plan: Plan) -> list[str]:
    """What was found only when the images of the user's data sets were read, in lines."""
    lines: dict[str, list[str]] = {}
    for unit in plan.prepared.values():
        if (name := unit.spec.base) in plan.own:
            known, found = plan.outlines[name].left_out, unit.result
            lost = {reason: names for reason, names in found["left_out"].items() if reason not in known}
            lost = lost if plan.study.methods else {}  # a survey says it at its end
            lines[name] = [f"{name}: {line}" for line in data_sets.read(found["changed"], lost)]
    return [line for of_set in lines.values() for line in of_set]
