"""Scheduled sampling: its keys, of which SimpleTuner ignores half on Sana Video."""

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run

_AT = "train.rollout"
_STEPS = 50  # of the sampler's table, as samples have
_OWN = (
    "max_step_offset strategy probability prob_start prob_end ramp_steps start_step ramp_shape sampler order "
    "reflexflow reflexflow_alpha reflexflow_beta1 reflexflow_beta2"
)
KEYS = " ".join(f"scheduled_sampling_{name}" for name in _OWN.split())
SAMPLERS = {"euler": "euler", "dpm": "dpm", "heun": "heun", "unipc": "dpm"}


def convert_rollout(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.rollout` where the largest offset and a probability are above 0."""

    def name(of: str) -> str:
        return f"scheduled_sampling_{of}"

    named = keys.present(*KEYS.split())
    offset, ramp = keys.integer(name("max_step_offset"), 0), keys.integer(name("ramp_steps"), 0)
    whole = keys.number(name("probability"), 0.0)
    # with a ramp there the probability goes from prob_start to prob_end, else it is one for all steps
    first = keys.number(name("prob_start"), 0.0) if ramp else whole
    last = keys.number(name("prob_end"), 0.5) if ramp else whole
    if offset < 1 or max(first, last) <= 0:
        for key in named:
            conversion.leave_out(key, keys.take(key), "off: max_step_offset or the probability is 0")
        return
    conversion.set(f"{_AT}.max_step_offset", min(offset, _STEPS),
                   "steps of the sampler's table here; there 1/1000 of the levels each",
                   *keys.present(name("max_step_offset")))  # fmt: skip
    conversion.set(f"{_AT}.strategy", keys.text(name("strategy"), "uniform"), "as there",
                   *keys.present(name("strategy")))  # fmt: skip
    of_ramp = keys.present(name("prob_start"), name("prob_end"))
    conversion.set(f"{_AT}.probability_start", first, "of a sample, at start_step",
                   *(keys.present(name("prob_start")) if ramp else []))  # fmt: skip
    conversion.set(f"{_AT}.probability_end", last, "once the ramp is over",
                   *keys.present(name("prob_end") if ramp else name("probability")))  # fmt: skip
    for key in keys.present(name("probability")) if ramp else of_ramp:
        conversion.leave_out(key, keys.take(key), "of no effect with a ramp" if ramp else "of no effect without a ramp")
    conversion.set(f"{_AT}.ramp_steps", ramp, "as there", *keys.present(name("ramp_steps")))
    conversion.set(f"{_AT}.start_step", keys.integer(name("start_step"), 0), "as there",
                   *keys.present(name("start_step")))  # fmt: skip
    conversion.set(f"{_AT}.ramp_shape", keys.text(name("ramp_shape"), "linear"), "as there",
                   *keys.present(name("ramp_shape")))  # fmt: skip
    asked = keys.text(name("sampler"), "unipc")
    conversion.set(f"{_AT}.sampler", SAMPLERS.get(asked, "euler"), "there ignored: always Euler's method",
                   *keys.present(name("sampler")))  # fmt: skip
    for key in keys.present(name("order")):
        conversion.leave_out(key, keys.take(key), "ignored there; here a sampler has its own")
    for key in keys.present(*(name(of) for of in _OWN.split() if of.startswith("reflexflow"))):
        conversion.leave_out(key, keys.take(key), "its weights are ignored on Sana Video there, at a cost; not here")
