"""The interview of `sana init`: looks first, then asks what it cannot know, and writes one config."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.cli.begin.check_text import lines_of_source
from flows.wizard import config_file, questions
from flows.wizard.asking import Asker
from flows.wizard.captions import with_captions
from flows.wizard.flags import Flags
from flows.wizard.look import Model, look_at_hardware, look_at_source
from flows.wizard.questions import Talk, is_sample, wrong_folder, wrong_root
from flows.wizard.scratch import looking_in
from flows.wizard.trial_settings import improve
from sana.config.places import at_home
from sana.convert.yaml_text import scalar
from sana.data.sources.sample import SampleLimits
from sana.errors import SanaError
from sana.pipeline.check import Checked
from sana.pipeline.starting.starter import Starter, dataset_id


@dataclass(frozen=True)
class Written:
    """The config that was written; `stopped` would stop a run of it; `is_sample`: not all clips were looked at."""

    path: Path
    stopped: Sequence[str]
    is_sample: bool


class Interview:
    """One call of `sana init`. Nothing is written before the last answer."""

    def __init__(self, flags: Flags, asker: Asker, limits: SampleLimits | None = None) -> None:
        self._flags, self._asker, self._limits = flags, asker, limits or SampleLimits()

    def run(self) -> Written:
        """Look, ask, write.

        Raises:
            SanaError: nothing of the source can be used, or an answer of a flag is wrong; nothing is written.
            KeyboardInterrupt: as a question was left; nothing is written.
        """
        self._check_flags()
        starter = Starter(self._source(), self._overrides())
        hardware = look_at_hardware()
        with looking_in(at_home(starter.config.work_dir)) as looked_in:
            model = Model(starter, looked_in.folder)
            checked = self._look(starter, model, looked_in.folder)
            self._asker.say(f"this machine: {hardware}")
            talk = Talk(starter, self._flags, self._asker, hardware, model)
            path, text, checked = self._ask(talk, checked)
            steps = (starter.config.train.max_steps, starter.steps_in_words(checked))
            config_file.write(path, text)
            looked_in.keep(at_home(starter.config.work_dir))
        self._asker.say(f"train.max_steps {' = '.join(str(part) for part in steps if part)}")
        for note in dict.fromkeys(talk.notes):
            self._asker.say(f"note: {note}")
        return Written(path, checked.stopped, is_sample(checked))

    def _check_flags(self) -> None:
        """Refuse what a flag says before minutes of looking. Raises SanaError."""
        flags = self._flags
        if flags.output is not None and (wrong := config_file.trouble_with(flags.output)):
            raise SanaError(f"-o: {wrong}")
        if flags.root is not None and (wrong := wrong_root(flags.root)):
            raise SanaError(f"--root: {wrong}")
        if flags.work_dir is not None and (wrong := wrong_folder(flags.work_dir)):
            raise SanaError(f"--work-dir: {wrong}")

    def _source(self) -> str:
        return self._flags.source or self._asker.text(
            "Where are the videos? A folder, s3://bucket/prefix or hf://datasets/owner/name",
            "",
            questions.wrong_source,
            flag="SOURCE",
            is_path=True,
        )

    def _overrides(self) -> list[str]:
        flags = self._flags
        given = {"root": flags.root, "work_dir": flags.work_dir, "model.path": flags.model}
        return [*flags.overrides, *(f"{key}={scalar(value)}" for key, value in given.items() if value is not None)]

    def _look(self, starter: Starter, model: Model, folder: Path) -> Checked:
        """Look at the source until its captions are found, and say what it gives by rules that suit it.

        Raises:
            SanaError: no rules would make something of it.
        """

        def look() -> Checked:
            return look_at_source(starter.config, folder, self._limits)

        source = starter.config.download.datasets[0].source
        self._asker.say(f"looking at {source}: all is listed, and at most {self._limits.clips} videos are opened")
        checked = with_captions(starter, self._flags, self._asker, look)
        improved = improve(copy.deepcopy(starter), model, checked)  # for good once the model is known
        usable = improved.assigned is not None and improved.assigned.windows.num_rows > 0
        for line in lines_of_source(improved if usable else checked):
            self._asker.say(line)
        if usable:
            return checked
        why = (
            "\n  ".join(improved.stopped) or "no video is small enough for a first look: sana check SOURCE looks at all"
        )
        what = "the source cannot be used" if checked.listed is None else "no config would help"
        raise SanaError(f"nothing is written, as {what}:\n  {why}")

    def _ask(self, talk: Talk, checked: Checked) -> tuple[Path, str, Checked]:
        """Ask the questions in turn; returns where to write what, and what comes of the clips then."""
        questions.ask_places(talk)
        questions.ask_model(talk)
        checked = improve(talk.starter, talk.model, checked)
        training, chosen = questions.ask_method(talk)
        questions.use_machine(talk)
        questions.ask_holdout(talk, checked)
        questions.ask_prompts(talk, checked)
        questions.ask_tracking(talk)
        checked = self._final(talk, checked)
        text = talk.starter.text(checked, config_file.head(checked, talk.hardware, training, chosen))
        return self._output(talk), text, checked

    def _output(self, talk: Talk) -> Path:
        if self._flags.output is not None:
            return self._flags.output
        proposed = config_file.free_name(Path(f"{dataset_id(talk.starter.config.download.datasets[0].source)}.yaml"))
        answer = self._asker.text(
            "Write the config to",
            str(proposed),
            lambda text: config_file.trouble_with(at_home(text)) if text else "a file name is needed",
            flag="-o",
        )
        return at_home(answer)

    def _final(self, talk: Talk, checked: Checked) -> Checked:
        """Return what comes of the clips in the end; of a sample names to hold out are not looked for."""
        config = talk.starter.config
        if not config.bucket.holdout or not is_sample(checked):
            return checked.with_config(config)
        talk.notes.append("`sana check` looks for the names to hold out among all files")
        bucket = config.bucket.model_copy(update={"holdout": (), "eval_fraction": checked.config.bucket.eval_fraction})
        return checked.with_config(config.model_copy(update={"bucket": bucket}))
