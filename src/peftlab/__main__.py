"""``python -m peftlab``: the command line, also under ``accelerate launch --module peftlab``."""

from peftlab.apps.cli.main import run

if __name__ == "__main__":
    run()
