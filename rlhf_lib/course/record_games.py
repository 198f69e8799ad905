"""How the recorded games of lesson 15 were made: `python -m rlhf_lib.course.record_games [NAME ...]`.

Needs TextWorld (`pip install "rlhf-lib[games]"`). "butterfly" is a game that TextWorld's own generator made; the others
were put together with its GameMaker, so that they show one thing each, and compiled by it like any other.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rlhf_lib import games
from rlhf_lib.paths import data_dir
from rlhf_lib.runs import write_text

COMMAND = "python -m rlhf_lib.course.record_games"
MADE_BY_TEXTWORLD = {
    "butterfly": "custom --world-size 2 --nb-objects 3 --quest-length 4 --only-last-action --seed 15",
}
# where the food is, where it is to be warmed
KITCHENS = {
    "kitchen": ("apple", "fridge", "oven"),
    "kitchen-2": ("potato", "cupboard", "oven"),
    "kitchen-3": ("apple", "cupboard", "toaster"),
    "kitchen-4": ("potato", "fridge", "toaster"),
    "kitchen-5": ("apple", "fridge", "toaster"),  # known things in a new combination
    "kitchen-6": ("egg", "cupboard", "oven"),  # a food that the others do not have
}


def maker():
    """TextWorld's GameMaker, its event and its quest, and a new world with a player in a room."""
    games.textworld()
    from textworld import GameMaker
    from textworld.generator.game import Event, GameOptions, Quest

    options = GameOptions()
    options.seeds = 1
    world = GameMaker(options)
    return world, Event, Quest


def thing(world, kind: str, name: str, *properties: str):
    """A new entity of a kind ("c" container, "f" food ...), with no description but its name."""
    made = world.new(type=kind, name=name, desc=f"It is a plain {name}.")
    for one in properties:
        made.add_property(one)
    return made


def warm_meal(food: str, place: str, heat: str, in_hand: bool = False):
    """A kitchen: the food is shut in a place; put into the heat, shut as well, it earns 2 points and the game is won.

    Eaten cold it earns 1, and is gone. `in_hand`: begin with the food in hand, and without the place.
    """
    world, Event, Quest = maker()
    there = f"a closed {heat}" if in_hand else f"a closed {place} and a closed {heat}"
    kitchen = world.new_room("Kitchen", desc=f"There is {there}.")
    world.set_player(kitchen)
    meal, oven = thing(world, "f", food, "edible"), thing(world, "c", heat, "closed")
    kitchen.add(oven)
    if in_hand:
        world.inventory.add(meal)
    else:
        fridge = thing(world, "c", place, "closed")
        kitchen.add(fridge)
        fridge.add(meal)
    eaten, warmed = {world.new_fact("eaten", meal)}, {world.new_fact("in", meal, oven)}
    world.quests = [
        Quest(win_events=[Event(conditions=warmed)], reward=2),
        Quest(win_events=[Event(conditions=eaten)], reward=1, optional=True),
    ]
    game = world.build(validate=False)
    game.objective = f"Put the {food} into the {heat}."
    return game


def sign(right: str):
    """A corridor with a sign, and beyond it a room with two boxes: the one that the sign names wins, the other loses.

    The introduction does not say which, so that it has to be read and remembered.
    """
    world, Event, Quest = maker()
    hall, room = (
        world.new_room("Hall", desc="You are in the hall."),
        world.new_room("Room", desc="You are in the room."),
    )
    world.connect(hall.east, room.west)
    world.set_player(hall)
    hall.add(world.new(type="s", name="sign", desc=f"It says: {right}."))  # a "supporter": it cannot be taken
    boxes = {name: thing(world, "c", f"{name} box", "closed") for name in ("red", "blue")}
    for box in boxes.values():
        room.add(box)
    (wrong,) = set(boxes) - {right}
    opened = {name: {world.new_fact("open", box)} for name, box in boxes.items()}
    world.quests = [
        Quest(win_events=[Event(conditions=opened[right])], fail_events=[Event(conditions=opened[wrong])], reward=1)
    ]
    game = world.build(validate=False)
    game.objective = "Open the right box."
    return game


MADE_BY_HAND: dict[str, Callable] = {
    "snack": lambda: warm_meal("apple", "", "oven", in_hand=True),
    **{name: lambda words=words: warm_meal(*words) for name, words in KITCHENS.items()},
    "sign-red": lambda: sign("red"),
    "sign-blue": lambda: sign("blue"),
}


def compiled(name: str, folder: Path) -> tuple[Path, dict]:
    """Make a game's .z8 file in a folder: (the file, what made it)."""
    file = folder / f"{name}.z8"
    if name in MADE_BY_TEXTWORLD:
        options = MADE_BY_TEXTWORLD[name]
        tool = Path(sys.executable).with_name("tw-make")
        command = [str(tool), *options.split(), "--output", str(file), "--silent", "-f"]
        subprocess.run(command, check=True)
        return file, {"game": f"tw-make {options}", "recorded": f"{COMMAND} {name}"}
    textworld = games.textworld()
    options = textworld.GameOptions()
    options.path, options.seeds, options.force_recompile = str(file), 1, True
    textworld.generator.compile_game(MADE_BY_HAND[name](), options)
    return file, {"game": f"rlhf_lib.course.record_games.MADE_BY_HAND[{name!r}]", "recorded": f"{COMMAND} {name}"}


def recorded(name: str) -> games.Game:
    """Make a game and record it."""
    with TemporaryDirectory() as folder:
        file, made = compiled(name, Path(folder))
        return games.record(file, name, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = [*MADE_BY_TEXTWORLD, *MADE_BY_HAND]
    parser.add_argument("names", nargs="*", choices=[*everything, []], help="games to record; all of them if none")
    for name in parser.parse_args().names or everything:
        game = recorded(name)
        file = data_dir() / "games" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        write_text(file, games.dump(game))
        print(f"{name}: {len(game)} states, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
