"""Which objective should an encoder be trained with? python recipes/which_objective.py

The question that Song & Ermon (2020) leave open: every objective on the same budget, three seeds, a table and a page.
What has run is kept in results/which_objective, and a second start goes on. How far it was run, and the numbers:
docs/training.md.
"""

from infomax import ui
from infomax.benchmarks.which_objective import command

if __name__ == "__main__":
    with ui.sentences():
        ui.arguments(command, prog="which_objective.py", description=__doc__)
