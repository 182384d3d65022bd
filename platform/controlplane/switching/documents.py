"""The files of a switching bundle beside its tables: configuration, invoices, content."""

from collections.abc import Iterator
from pathlib import Path

from compliance.bundles import assembly
from compliance.bundles.writer import FULL
from compliance.models import Export
from controlplane.batches import content
from controlplane.batches.models import File
from controlplane.switching import catalogue, register
from controlplane.switching.resources import Resource, line
from controlplane.tenancy import datasets
from controlplane.tenancy.models import Organization

_Part = tuple[str, Path]


def write(export: Export, folder: Path) -> Iterator[_Part]:
    """As things are when it is built; invoices and usage are those of the export's period.

    Content and invoices name people: of a full export alone.
    """
    organization = Organization.objects.get(id=export.log_id)
    full = export.profile == FULL
    mask = None if full else assembly.pseudonym(export)
    for one in catalogue.RESOURCES:
        source = folder / f"{one.name}.jsonl"
        with source.open("wb") as file:
            file.writelines(map(line, one.rows(organization, mask)))
        yield one.path, source
    for path, said in register.schemas().items():
        if path.startswith("documents/"):
            yield _kept(path, said, folder)
    yield _kept(register.PATH, register.content(), folder)
    yield from datasets.recomputable(export, folder)
    yield from datasets.invoice_forms(export, folder)
    if full:
        yield from _files(organization, catalogue.BY_NAME["files"], folder)


def _files(organization: Organization, files: Resource, folder: Path) -> Iterator[_Part]:
    """documents/files/ID: what was uploaded for batches, and what they came to."""
    for row in files.of(organization).order_by("id").iterator(chunk_size=100):
        assert isinstance(row, File)
        source = folder / row.id
        with source.open("wb") as into:
            into.writelines(content.read(row))
        yield f"documents/files/{row.id}", source


def _kept(path: str, content: bytes, folder: Path) -> _Part:
    source = folder / path.replace("/", "-")
    source.write_bytes(content)
    return path, source
