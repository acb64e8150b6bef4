"""``python -m medpanoptic``: the same as the command ``medpanoptic``."""

from __future__ import annotations

from medpanoptic.cli import main

if __name__ == "__main__":
    main()
