"""The whole config of a run."""

import os
import re
from typing import Annotated, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from sana.bucket import Bucket
from sana.config.bucket import BucketConfig, BucketRules
from sana.config.data import DatasetConfig, DownloadConfig, ProbeConfig
from sana.config.delivery.notifications import NotificationsConfig
from sana.config.delivery.publish import PublishConfig
from sana.config.delivery.tracking import TrackingConfig
from sana.config.encode import EncodeCaptionsConfig, EncodeFeaturesConfig, EncodeLatentsConfig, ModelConfig
from sana.config.evaluate import EvaluateConfig
from sana.config.filters import FilterCaptionsConfig
from sana.config.sample import SampleConfig
from sana.config.section import Neutral, Section
from sana.config.training.conditions import ConditionConfig, Conditions, InpaintMaskCondition
from sana.config.training.masks import EncodeMasksConfig
from sana.config.training.train import TrainConfig
from sana.config.training.validation import MAX_VIDEOS
from sana.wording import first_of


class Config(Section):
    """The whole config of a run."""

    model_config = ConfigDict(hide_input_in_errors=True)  # of pydantic's own text: it may be a secret

    root: str = Field(
        ".sana/store", min_length=1, description="where artifacts are stored: a folder or s3://bucket/prefix"
    )
    work_dir: str = Field(".sana", min_length=1, description="local folder for logs, locks, caches and databases")
    model: ModelConfig
    download: DownloadConfig
    probe: ProbeConfig = ProbeConfig()
    filter_captions: Annotated[FilterCaptionsConfig | None, Neutral(None)] = Field(
        None, description="reject clips by the length of their captions; unset: this stage is not part of the run"
    )
    bucket: BucketConfig = Field(default_factory=BucketConfig)
    encode_masks: EncodeMasksConfig = EncodeMasksConfig()
    encode_features: Annotated[EncodeFeaturesConfig, Neutral(EncodeFeaturesConfig())] = EncodeFeaturesConfig()
    encode_captions: EncodeCaptionsConfig = EncodeCaptionsConfig()
    encode_latents: EncodeLatentsConfig = EncodeLatentsConfig()
    train: TrainConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    sample: SampleConfig
    publish: Annotated[PublishConfig | None, Neutral(None)] = Field(
        None, description="upload what was trained to a hub or a bucket; unset: this stage is not part of the run"
    )
    tracking: TrackingConfig = TrackingConfig()
    notifications: NotificationsConfig = NotificationsConfig()

    @field_validator("work_dir")
    @classmethod
    def _is_local(cls, work_dir: str) -> str:
        if "://" in work_dir:
            raise ValueError(f"{work_dir} must be a local folder: it holds locks and databases; root may be s3://")
        return os.path.expanduser(work_dir)

    @field_validator("root", "work_dir")
    @classmethod
    def _has_no_variable(cls, folder: str) -> str:
        """Refuse what only a shell fills in: a folder of that name would be made."""
        if found := re.match(r"\$(\w+|\{\w+\})", folder):
            raise ValueError(f"{found[0]} is not filled in here; write the path itself (got {folder!r})")
        return folder

    @model_validator(mode="after")
    def _no_split_is_empty(self) -> Self:
        roles = {dataset.role for dataset in self.download.enabled}
        held_out = self.bucket.eval_fraction or self.bucket.holdout
        if "eval" not in roles and not held_out:
            raise ValueError(
                "bucket.eval_fraction is 0, bucket.holdout is empty and no data set has role: eval: nothing would be "
                "held out for the eval loss; eval_fraction: 0.05 holds out at least one of two sources"
            )
        if roles == {"train"}:
            raise ValueError(
                "every data set in use has role: train; nothing is held out for the eval loss: give one role: split"
            )
        if roles == {"eval"}:
            raise ValueError("every data set in use has role: eval; nothing is left to train on")
        return self

    @model_validator(mode="after")
    def _conditions_apply(self) -> Self:
        trained = [dataset for dataset in self.download.enabled if dataset.role != "eval"]
        users = [("train", [dataset for dataset in trained if dataset.conditions is None], self.train.conditions)]
        users += [(dataset.where, [dataset], dataset.conditions or ()) for dataset in trained]
        self._mask_conditions_have_masks(users)
        for where, datasets, conditions in users:
            shapes = [shape for dataset in datasets for shape in self.rules_of(dataset).shapes]
            for place, condition in enumerate(conditions if shapes else ()):
                if why := condition.why_never(shapes):
                    raise ValueError(f"{where}.conditions.{place}: {why}")
        return self

    @staticmethod
    def _mask_conditions_have_masks(users: list[tuple[str, list[DatasetConfig], Conditions]]) -> None:
        for where, datasets, conditions in users:
            asked = next((place for place, one in enumerate(conditions) if isinstance(one, InpaintMaskCondition)), None)
            if asked is not None and datasets and all(dataset.masks is None for dataset in datasets):
                raise ValueError(
                    f"{where}.conditions.{asked}: inpaint_mask looks inside masks, and no data set that it is of has "
                    "any; set download.datasets.ID.masks, such as {suffix: .mask}, or use inpaint, which draws boxes"
                )

    @property
    def trains_with_masks(self) -> bool:
        """Whether the loss or a condition looks inside masks."""
        listed = (self.train.conditions, *(dataset.conditions or () for dataset in self.download.enabled))
        asked = any(isinstance(one, InpaintMaskCondition) for conditions in listed for one in conditions)
        return asked or self.train.masked_loss is not None

    @model_validator(mode="after")
    def _masked_loss_has_masks(self) -> Self:
        trained = [dataset for dataset in self.download.enabled if dataset.role != "eval"]
        if self.train.masked_loss is not None and all(dataset.masks is None for dataset in trained):
            raise ValueError(
                "train.masked_loss looks inside masks, and no data set in training has any; set "
                "download.datasets.ID.masks, such as {suffix: .mask}, or remove train.masked_loss"
            )
        return self

    @model_validator(mode="after")
    def _separate_datasets_are_eval(self) -> Self:
        roles = {dataset.id: dataset.role for dataset in self.download.enabled}
        for name in self.evaluate.separate_datasets:
            if roles.get(name) != "eval":
                found = f"has role: {roles[name]}" if name in roles else "is no data set in use"
                raise ValueError(
                    f"evaluate.separate_datasets: {name} {found}; what is measured by itself needs role: eval, so that "
                    "nothing of it is trained on"
                )
        rest = {dataset.role for dataset in self.download.enabled if dataset.id not in self.evaluate.separate_datasets}
        held_out = "eval" in rest or ("split" in rest and (self.bucket.eval_fraction or self.bucket.holdout))
        if self.evaluate.separate_datasets and not held_out:
            raise ValueError(
                "evaluate.separate_datasets has all that is held out, and nothing is left for the eval loss; set "
                "bucket.eval_fraction or bucket.holdout, or leave one data set out of it"
            )
        return self

    @model_validator(mode="after")
    def _publication_fits(self) -> Self:
        if self.publish is not None:
            self.publish.check([dataset.id for dataset in self.download.datasets], {"root": self.root})
        return self

    @model_validator(mode="after")
    def _offload_evaluates_on_one_rank(self) -> Self:
        ranks = self.train.resources.num_processes
        if self.evaluate.resources.offload.is_on and ranks > 1:
            raise ValueError(
                f"evaluate.resources.offload works with one rank, not train.resources.num_processes {ranks}, which "
                "exchange weights on the device; set evaluate.resources.offload.type to none, or num_processes to 1"
            )
        return self

    @model_validator(mode="after")
    def _place_in_a_batch_changes_no_bit(self) -> Self:
        # measured with AVX-512, all sizes of 32 to 160: what shares a batch changes the last bits (1e-7) of the others
        if self.encode_latents.batch_size == 1:
            return self
        for shape in (shape for dataset in self.download.enabled for shape in self.rules_of(dataset).shapes):
            _, _, height, width = shape.latent_shape
            if height * width % 16:
                raise ValueError(
                    f"encode_latents.batch_size {self.encode_latents.batch_size} and bucket {shape}: on some CPUs the "
                    "last bits of a window would depend on what shares its batch; use batch_size 1, or buckets whose "
                    "height and width are multiples of 32"
                )
        return self

    def conditions_of(self, dataset: DatasetConfig) -> Conditions:
        """Return the conditions that samples of a data set are trained with: its own, or those of `train`."""
        return self.train.conditions if dataset.conditions is None else dataset.conditions

    @property
    def with_any_conditions(self) -> Self:
        """This config, with conditions in `train` where only a data set has some: costs depend on whether any has."""
        own = next((found for dataset in self.download.enabled if (found := self.conditions_of(dataset))), ())
        if self.train.conditions or not own:
            return self
        return self.model_copy(update={"train": self.train.model_copy(update={"conditions": own})})

    @property
    def evaluated_conditions(self) -> dict[str, ConditionConfig]:
        """The conditions whose eval losses are measured, by label: of several data sets the first with this label.

        Without those of the clips' masks, which eval samples are not read with.
        """
        if not self.evaluate.conditions:
            return {}
        found: dict[str, ConditionConfig] = {}
        for conditions in (self.train.conditions, *(dataset.conditions or () for dataset in self.download.enabled)):
            for condition in conditions:
                if isinstance(condition, InpaintMaskCondition):
                    continue
                found.setdefault(condition.label, condition)
        return found

    @model_validator(mode="after")
    def _validation_has_its_prompts(self) -> Self:
        wanted, known = self.train.validation, self.sample.prompts
        if unknown := [name for name in wanted.prompts if name not in known]:
            raise ValueError(
                f"train.validation.prompts names {unknown[0]}, which sample.prompts does not have; it has "
                f"{first_of(sorted(known)[:8], len(known))}: add the prompt there, or name one of these"
            )
        number = len(wanted.prompts or known) * max(1, len(wanted.buckets)) * max(1, len(wanted.seeds))
        if wanted.every and number > MAX_VIDEOS:
            raise ValueError(
                f"train.validation would make {number} videos of one set of weights (prompts x buckets x seeds), more "
                f"than {MAX_VIDEOS}; name fewer of them"
            )
        return self

    @model_validator(mode="after")
    def _images_have_a_bucket(self) -> Self:
        for dataset in self.download.enabled:
            if dataset.images == "read" and not self.image_buckets(dataset):
                raise ValueError(
                    f"{dataset.where}.images: read takes still pictures as clips of one frame, and none of its buckets "
                    "has one frame; set bucket.num_frames: 1 (of this data set), or list buckets such as 1x480x832"
                )
        return self

    @model_validator(mode="after")
    def _pictures_and_videos_alternate(self) -> Self:
        if self.train.image_every is None:
            return self
        trained = [dataset for dataset in self.download.enabled if dataset.role != "eval"]
        frames = {shape.num_frames == 1 for dataset in trained for shape in self.rules_of(dataset).shapes}
        if frames != {True, False}:
            kind = "more than one frame" if True in frames else "one frame"
            raise ValueError(
                f"train.image_every {self.train.image_every} alternates buckets of one frame and of more, and no data "
                f"set that is trained on has one of {kind}; give one its own download.datasets.ID.bucket, or remove it"
            )
        return self

    def image_buckets(self, dataset: DatasetConfig) -> tuple[Bucket, ...]:
        """Return the buckets of one frame that a data set may use."""
        return tuple(shape for shape in self.rules_of(dataset).shapes if shape.num_frames == 1)

    def resolved(self, dataset: DatasetConfig) -> DatasetConfig:
        """Return a data set that says whether its pictures are read: `images` is read or ignore."""
        if dataset.images != "auto":
            return dataset
        reads = len(self.image_buckets(dataset)) == len(self.rules_of(dataset).shapes)
        return dataset.model_copy(update={"images": "read" if reads else "ignore"})

    def rules_of(self, dataset: DatasetConfig) -> BucketRules:
        """Return the bucket rules of a data set: its own, or `bucket`."""
        return dataset.bucket or self.bucket
