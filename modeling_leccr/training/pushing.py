"""Pushes of a trainer: what arrives on the Hub is what `push_model` sends."""

import tempfile
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer

from modeling_leccr.publishing import push_model
from modeling_leccr.training.arguments import LeccrTrainingArguments
from processing.hub_card import check_license
from processing.hub_upload import prepare_repository


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
        commit_message: str = "End of training",
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> dict[str, Any] | None:
        """Push the model as it is; what arrives is what `push_model` sends. Every process has to call it.

        Args: of the parent, of which the card takes none, for it is written from what is known of the run.

        Returns:
            What was sent, see `push_model`; None in every process but the main one.

        Raises: as `push_model`.
        """
        repo_id = self._repository()
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
                message=commit_message,
            )

    def _repository(self) -> str:
        if not self.args.hub_model_id:
            raise ValueError("hub_model_id must name the repository to push to, as organisation/name; got none.")
        return self.args.hub_model_id
