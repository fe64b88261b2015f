"""Pushes of a trainer: what arrives on the Hub is what `push_model` sends."""

import logging
import tempfile
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer

from modeling_leccr.publishing import push_model
from modeling_leccr.training.arguments import LeccrTrainingArguments
from processing.hub_card import check_license
from processing.hub_upload import prepare_repository

logger = logging.getLogger(__name__)

END_OF_TRAINING = "End of training"


class HubPushes(Trainer):
    """Replaces the pushes of transformers' trainer, which would send another card and no golden embeddings."""

    args: LeccrTrainingArguments

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository before training, so that a wrong token, name or licence shows before hours of it.

        Raises:
            ValueError: there is no name for it, it is public and asked to be private, or the Hub has no such licence.
            ConnectionError: there is no token, or one that may not write there.
        """
        if self.is_world_process_zero():
            check_license(self.args.hub_license, "model")
            private = bool(self.args.hub_private_repo) if private is None else private
            api = HfApi(token=token or self.args.hub_token)
            prepare_repository(api, self._repository(), "model", private=private, revision=self.args.hub_revision)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = END_OF_TRAINING,
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> dict[str, Any] | None:
        """Push the model as it is; what arrives is what `push_model` sends. Every process has to call it.

        Args:
            commit_message: of the commit on the Hub; None says that training has ended.
            blocking: has no effect: the push is over when this returns, and what fails in it shows.
            token: that may write to the repository; None takes `hub_token`, or the one of `hf auth login`.
            revision: branch to push to; None takes `hub_revision`.
            private: whether a repository that does not exist yet is made private; None takes `hub_private_repo`.
            card: facts for the parent's model card. Ours is written from the record of the run and takes none of
                them; what is ignored is logged.

        Returns:
            What was sent, see `push_model`; None in every process but the main one.

        Raises: as `push_model`.
        """
        repo_id = self._repository()
        if card and self.is_world_process_zero():
            logger.warning("the model card is written from the record of the run and takes no %s", sorted(card))
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        with tempfile.TemporaryDirectory(prefix="leccr-push-") as folder:
            self.save_model(folder, _internal_call=True)
            if not self.is_world_process_zero():
                return None
            return push_model(
                folder,
                repo_id,
                license_id=self.args.hub_license,
                private=bool(self.args.hub_private_repo) if private is None else private,
                revision=revision or self.args.hub_revision,
                token=token or self.args.hub_token,
                message=commit_message or END_OF_TRAINING,
            )

    def _repository(self) -> str:
        if not self.args.hub_model_id:
            raise ValueError("hub_model_id must name the repository to push to, as organisation/name; got none.")
        return self.args.hub_model_id
