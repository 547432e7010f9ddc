"""Every check and the main job: `nox -l` lists them. With --no-venv they run in the environment that is there."""

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False


def _install(session: nox.Session, *what: str) -> None:
    if session.virtualenv.is_sandboxed:
        session.install("-c", "constraints.txt", *what)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    _install(session, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Static types, strictly."""
    _install(session, "-e", ".[dev,video]")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite; arguments go to pytest."""
    _install(session, "-e", ".[dev,video]")
    session.run("pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Benchmarks, as ratios within one run; arguments go to pytest: a file of tests/bench, or -k."""
    _install(session, "-e", ".[dev,video]")
    chosen = session.posargs or ["tests/bench"]
    session.run("pytest", "--benchmark-only", "--benchmark-columns=min,median", *chosen)


@nox.session
def reproduce_anet(session: nox.Session) -> None:
    """The paper's tables beside your own: `-- --help` lists the options."""
    _install(session, "-e", ".[video]")  # --end-to-end decodes videos
    session.run("python", "-m", "experiments.reproduce", *session.posargs)


@nox.session
def reproduce_thumos(session: nox.Session) -> None:
    """The same by the protocol of THUMOS-14: sliding windows, tIoU 0.3 to 0.7."""
    _install(session, "-e", ".")
    session.run("python", "-m", "experiments.reproduce", "--benchmark", "thumos", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Render the studies and runs that are there; `-- --published` writes reports/published, which is committed."""
    _install(session, "-e", ".")
    session.run("python", "-m", "experiments.report", *session.posargs)
