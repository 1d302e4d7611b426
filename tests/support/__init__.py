"""What several tests use: stand-ins for servers and commands, made-up data and models, and steps without a pipeline around them."""

from pathlib import Path

import pytest

pytest.register_assert_rewrite(*(f"{__name__}.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")))
