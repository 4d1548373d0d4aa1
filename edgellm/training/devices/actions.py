"""What can be done with a thing that has two states, and how people ask for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Action:
    asks: tuple[str, ...]
    """Ways to ask; `{t}` is the thing."""
    unseen: tuple[str, ...]
    """Ways to ask that are held out for evaluation."""


ACTIONS = {
    "on": Action(
        (
            "turn on {t}", "turn on {t}", "turn {t} on", "switch on {t}", "switch {t} on",
            "put {t} on", "put on {t}", "{t} on", "power on {t}", "power up {t}", "activate {t}",
            "i want {t} on", "i need {t} on", "i'd like {t} on", "enable {t}", "set {t} to on",
            "turn {t} back on", "i want {t} to be on", "light up {t}", "get {t} on",
            "on with {t}",
        ),
        (
            "flip {t} on", "i want to have {t} on", "{t} should be on",
        ),
    ),
    "off": Action(
        (
            "turn off {t}", "turn off {t}", "turn {t} off", "switch off {t}", "switch {t} off",
            "put {t} off", "{t} off", "power off {t}", "power down {t}", "deactivate {t}",
            "shut off {t}", "shut {t} off", "i want {t} off", "disable {t}", "kill {t}",
            "set {t} to off", "turn {t} back off", "i want {t} to be off", "cut {t}",
            "off with {t}", "put out {t}", "i don't need {t} any more",
            "turn down {t} completely",
        ),
        (
            "flip {t} off", "i'd like {t} off", "{t} should be off",
        ),
    ),
    "open": Action(
        (
            "open {t}", "open {t}", "open up {t}", "{t} open", "i want {t} open", "get {t} open",
            "pull {t} open", "unshut {t}", "i'd like {t} open", "make {t} open", "slide {t} open",
        ),
        (
            "i need {t} open", "have {t} opened",
        ),
    ),
    "close": Action(
        (
            "close {t}", "close {t}", "shut {t}", "{t} closed", "i want {t} closed",
            "close up {t}", "pull {t} shut", "i'd like {t} closed", "get {t} closed",
            "close {t} up", "seal {t}",
        ),
        (
            "i need {t} closed", "have {t} shut",
        ),
    ),
    "start": Action(
        (
            "start {t}", "start {t}", "start up {t}", "run {t}", "start {t} up", "launch {t}",
            "get {t} running", "let {t} run", "fire up {t}", "begin {t}", "i want {t} running",
            "make {t} run", "set {t} going", "get {t} started", "kick off {t}",
        ),
        (
            "have {t} running", "{t} should run", "spin up {t}",
        ),
    ),
    "stop": Action(
        (
            "stop {t}", "stop {t}", "halt {t}", "end {t}", "make {t} stop", "stop {t} at once",
            "bring {t} to a stop", "i want {t} stopped", "cancel {t}", "interrupt {t}",
            "{t} stop",
        ),
        (
            "have {t} stopped", "get {t} to stop",
        ),
    ),
    "lock": Action(
        (
            "lock {t}", "lock {t}", "lock up {t}", "bolt {t}", "i want {t} locked",
            "make sure {t} is locked",
        ),
        (
            "have {t} locked",
        ),
    ),
    "unlock": Action(
        (
            "unlock {t}", "unlock {t}", "unbolt {t}", "i want {t} unlocked",
        ),
        (
            "have {t} unlocked",
        ),
    ),
}  # fmt: skip
