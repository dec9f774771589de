"""Shape annotations are checked here, and only here: the hook must come before anything imports infomax."""

from jaxtyping import install_import_hook

SHAPED = ["infomax.scores", "infomax.critics", "infomax.objectives", "infomax.models"]
install_import_hook(SHAPED, "shapecheck.check")
