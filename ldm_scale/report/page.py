from ldm_scale.rundir import RunDirectory


def write_report(run: RunDirectory) -> None:
    pass
