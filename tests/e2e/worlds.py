"""The world of fictional people that the end-to-end tests share."""

from dataclasses import replace

from expunge.demo.models import SMALL

WORLD = replace(SMALL, retain=12, collateral=6, pretrain=80, width=128, layers=2)
"""Made in two thirds of the time of the demo's small one, and as well known by heart."""
