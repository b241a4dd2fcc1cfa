"""``tailfleet token``: let people and programs speak to the coordinator, and stop them."""

from enum import Enum
from typing import Annotated

import typer

from tailfleet_coordinator.cli.show import fleet, say, table

app = typer.Typer(help="Tokens of people and programs: create, list, revoke.", no_args_is_help=True)


class Role(str, Enum):
    """What a token opens."""

    OPERATOR = "operator"
    VIEWER = "viewer"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose token it is: a person or a program.")],
    role: Annotated[Role, typer.Option(help="A viewer may look at things, an operator may change them.")],
) -> None:
    """Print a new token; it cannot be shown again."""
    made = fleet().create_token(name, role.value)
    typer.echo(
        f"The {made.role} token of {made.name}, for $TAILFLEET_TOKEN. It is stored nowhere and is not shown again:",
        err=True,
    )
    typer.echo(made.token)


@app.command("list")
def list_tokens() -> None:
    """Every token by name, also revoked ones; never the token itself."""
    frame = fleet().tokens()
    shown = frame.rename(columns={"name": "token", "created_at": "created (UTC)", "revoked_at": "revoked (UTC)"})
    table("tokens", shown, "there is no token")


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The token's name.")]) -> None:
    """Make a token void at once."""
    fleet().revoke_token(name)
    say(f"the token {name} opens nothing from now on")
