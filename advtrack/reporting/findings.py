"""What a comparison says: the tables, the paper's claims one by one, and the sentences that sum it up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from advtrack.reporting.belonging import belonging
from advtrack.reporting.cells import Table
from advtrack.reporting.claims import Claim, judge
from advtrack.reporting.pairs import FillingCommand, Victims
from advtrack.reporting.ranking import ranking_table
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.summary import summary
from advtrack.reporting.tables import table_one, table_three, table_two
from advtrack.reporting.victim_tables import budgets_table, masking_table, robust_accuracy_table


@dataclass(frozen=True)
class Findings:
    """All that a comparison found.

    Attributes
    ----------
    tables : tuple of Table
        By name: ``table_I``, ``table_II``, ``table_III``, ``robust_accuracy``, ``ranking``, ``masking``, ``budgets``.
    claims : tuple of Claim
        The paper's, for each data set.
    summary : tuple of str
        Sentences in plain words: which model on which representation withstands what, and what it costs.
    left_out : tuple of str
        Runs that do not belong with the others, and why, a sentence each.
    """

    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    summary: tuple[str, ...]
    left_out: tuple[str, ...]

    def table(self, name: str) -> Table:
        """The table of a name."""
        return next(table for table in self.tables if table.name == name)


def compare(
    records: Sequence[VictimRecord],
    rows: Sequence[tuple[str, str]],
    models: Sequence[str],
    attacks: Sequence[str],
    command: FillingCommand,
) -> Findings:
    """Work out everything that the records tell.

    Parameters
    ----------
    records : sequence of VictimRecord
        In any order; one per data set, representation, model and training.
    rows : sequence of (dataset, representation)
        Lines of tables I to III, as they shall appear.
    models : sequence of str
        Columns of tables I to III, as they shall appear.
    attacks : sequence of str
        All attacks that a complete cell averages over.
    command : FillingCommand
        Names the command for what is missing.

    Returns
    -------
    Findings
        The same for any order of the records.
    """
    kept, left_out = belonging(records)
    victims = Victims(kept, attacks, command)
    papers = [table(victims, rows, models) for table in (table_one, table_two, table_three)]
    papers = [replace(table, notes=left_out) for table in papers]
    one, two, three = papers
    others = (robust_accuracy_table(kept), ranking_table(kept), masking_table(kept), budgets_table(kept))
    claims = [
        claim
        for dataset in dict.fromkeys(dataset for dataset, _ in rows)
        for claim in judge(
            dataset, kept, [r for d, r in rows if d == dataset], models, attacks, {t.name: t for t in papers}
        )
    ]
    data = {record.dataset: record.data for record in kept if record.data}
    return Findings((*papers, *others), tuple(claims), summary(one, two, three, data), left_out)
