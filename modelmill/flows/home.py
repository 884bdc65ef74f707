"""The home of this shell → what it is and holds, on the terminal; or its permissions changed."""

from rich.console import Console
from rich.table import Table

from modelmill.flows.environment import mill_home
from modelmill.flows.inspection import print_json
from modelmill.services.home import describe_home, make_private, share_home, things_of_others
from modelmill.tasks.errors import RecipeError


def show_home(console: Console, as_json: bool) -> None:
    """Print where the home is, who may use it and how large its parts are."""
    found = describe_home(mill_home())
    if as_json:
        print_json(console, found)
        return
    who = f"{found['owner']} and group {found['group']}" if found["shared"] else f"{found['owner']} alone"
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row("home", found["path"])
    table.add_row("used by", f"{who} (mode {found['mode']})")
    table.add_row("format", str(found["format"]))
    table.add_row("size", f"{found['bytes'] / 1e6:,.1f} MB")
    for name, size in sorted(found["parts"].items(), key=lambda item: -item[1]):
        table.add_row(f"  {name}", f"{size / 1e6:,.1f} MB")
    console.print(table)


def change_home(console: Console, group: str | None, private: bool) -> None:
    """Share the home with a group, or take it back.

    Raises:
        RecipeError: both are asked for.
    """
    if group is not None and private:
        raise RecipeError("--share GROUP opens the home and --private closes it: give one of them")
    if group is not None:
        count = share_home(mill_home(), group)
        console.print(f"group {group} may use the home now ({count:,} files and folders)", highlight=False)
    else:
        count = make_private(mill_home())
        console.print(f"only its owner may use the home now ({count:,} files and folders)", highlight=False)
        if left := things_of_others(mill_home()):
            console.print(
                f"{len(left):,} of them are links, or belong to others ({left[0]} for one): look at them before you "
                "trust them, and run `mill verify --all`",
                highlight=False,
                soft_wrap=True,
            )
