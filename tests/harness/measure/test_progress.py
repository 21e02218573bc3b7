from harness.measure.progress import Bar, Pulse


def test_bar_says_how_much_how_fast_and_how_long() -> None:
    now = [0.0]
    bar = Bar(1000, lambda: now[0])
    said = []
    for second in range(1, 21):
        now[0] = second
        said.append(bar.add(25))
    lines = [line for line in said if line]
    # Every five seconds; from the first report on, 25 a second.
    assert len(lines) == 4
    assert lines[-1] == "[##########..........] 50 % of 1,000 requests, 25/s, 0:20 left"


def test_pulse_says_all_in_the_end() -> None:
    said: list[int] = []
    pulse = Pulse(said.append, seconds=100)
    for _ in range(5):
        pulse.add(2)
    assert said == []
    pulse.flush()
    pulse.flush()
    assert said == [10]
