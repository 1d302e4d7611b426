"""What work costs in energy and CO₂, as codecarbon's offline tracker estimates it; nothing is sent, asked or written anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from bccp.core.errors import BCCPError

_POLL_SECONDS = 15


@contextmanager
def measured(country: str | None) -> Iterator[dict[str, float]]:
    """Measure what is done in the block.

    Parameters
    ----------
    country : str or None
        ISO 3166 code of three letters, whose mix of power plants counts; None: nothing is measured.

    Yields
    ------
    dict of str to float
        After the block ``energy_kwh`` and ``co2_kg``: of this process where the machine tells, else estimated from the processor's type;
        empty where the tracker has failed.

    Raises
    ------
    BCCPError
        If codecarbon does not know the country.
    """
    found: dict[str, float] = {}
    if country is None:
        yield found
        return
    from codecarbon import OfflineEmissionsTracker
    from codecarbon.input import DataSource

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    if country not in DataSource().get_global_energy_mix_data():  # the tracker would take the world's
        raise BCCPError(f"train.energy_country={country} is unknown to codecarbon: give a country's ISO code of three letters, such as DEU")
    tracker = OfflineEmissionsTracker(
        country_iso_code=country,
        measure_power_secs=_POLL_SECONDS,
        tracking_mode="process",
        output_methods=[],
        allow_multiple_runs=True,
        log_level="critical",
    )
    tracker.start()
    try:
        yield found
    finally:
        co2_kg = tracker.stop()
        if co2_kg is not None:  # it swallows what goes wrong in it
            found |= {"energy_kwh": float(tracker.final_emissions_data.energy_consumed), "co2_kg": float(co2_kg)}
