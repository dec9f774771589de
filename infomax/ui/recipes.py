"""The recipes that come with the library, as files to start from."""

from importlib import util
from pathlib import Path

from infomax.errors import UserError, nearest


def folder() -> Path:
    """Where they lie: in the wheel as infomax.recipes, in a checkout beside the library."""
    spec = util.find_spec("infomax.recipes")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec is not None else []
    for place in (*places, Path(__file__).parents[2] / "recipes"):
        if (place / "simclr.py").is_file():
            return place
    raise UserError("The recipes did not come with this installation; they lie in the project's folder recipes/.")


def names() -> list[str]:
    """Of all recipes: the files of their folder."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def place_of(name: str) -> Path:
    """The file of a recipe, by name. Raises UserError: an unknown one, with the nearest names."""
    wanted = name.removesuffix(".py")
    if wanted not in names():
        raise UserError(f"There is no recipe {name!r}.{nearest(name, names())}")
    return folder() / f"{wanted}.py"


def written(name: str, into: Path) -> tuple[Path, list[Path]]:
    """Copies a recipe into a folder, with simclr.py where it needs that; returns its file and those that are new.

    Raises UserError: one that is there already and was edited, a folder that cannot be written."""
    names = [name.removesuffix(".py")]
    if names[0].startswith("simclr_"):
        names.append("simclr")
    copies = [(place_of(each), into / f"{each}.py") for each in names]
    source, target = copies[0]
    try:
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise UserError(
                f"{target} is there already and is not the library's; name another folder with --into, or remove it."
            )
        into.mkdir(parents=True, exist_ok=True)
        new = [(source, target) for source, target in copies if not target.exists()]
        for source, target in new:
            target.write_bytes(source.read_bytes())
    except OSError as error:
        raise UserError(f"The recipe could not be written to {into} ({error}).") from error
    return copies[0][1], [target for _, target in new]


def recipe(name: str, /, into: Path = Path()) -> None:
    """Write a recipe as a file to start from: simclr_smile, moco, deep_infomax, multicrop, given_views, cpc, clip, ...

    Args:
        name: The recipe's, such as moco.
        into: The folder to write it into; by default this one.
    """
    file, new = written(name, into)
    # One that starts trainings is itself one process.
    start = "python" if file.stem == "which_objective" else "accelerate launch"
    told = f"Written: {', '.join(map(str, new))}." if new else f"{file} is there already, as the library has it."
    print(f"{told} Start it with: {start} {file}")
