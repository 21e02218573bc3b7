from harness.measure.progress import Bar, Pulse


def test_bar_says_how_much_how_fast_and_how_long() -> None:
    now = [0.0]
    bar = Bar(1000, lambda: now[0])
    said = []
    for second in range(1, 21):
        now[0] = second
        said.append(bar.add(25))
    lines = [line for line in said if line]
    # Every five seconds from the first report on, 25 a second.
    assert len(lines) == 3
    assert lines[-1] == "[########............] 40 % of 1,000 requests, 25/s, 0:24 left"


def test_no_speed_is_said_of_engines_that_have_only_just_started() -> None:
    now = [0.0]
    bar = Bar(1000, lambda: now[0])
    now[0] = 30.0
    assert bar.add(1) is None
    now[0] = 30.5
    assert bar.add(1) is None
    now[0] = 35.0
    assert bar.add(98) == "[##..................] 10 % of 1,000 requests, 20/s, 0:45 left"


def test_pulse_says_all_in_the_end() -> None:
    said: list[int] = []
    pulse = Pulse(said.append, seconds=100)
    for _ in range(5):
        pulse.add(2)
    assert said == []
    pulse.flush()
    pulse.flush()
    assert said == [10]
