"""Text embeddings of captions: against sentencepiece's own ids, diffusers' pipeline, and by hand."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from data.clips import Clip
from data.procedural.clips import make_clip
from data.procedural.config import SceneConfig
from data.shard_index import ShardIndex
from data.shard_writing import write_shards
from data.shards import open_clip, verify
from models.prepare_text import main
from models.torchvision_compat import mend_torchvision
from models.video.text_encoder import TextEncoder, load_text_encoder
from models.video.text_shards import open_text, open_texts, write_text

SENTENCES = ["a street with a cat", "the cat sat in a street", "rain on a window", "a house"]
CAPTIONS = ["a cat", "", "the street with a house and a window and a cat", "", "a house"]
SCENES = SceneConfig(height=16, width=24, num_frames=9, num_near=0, num_far=0, supersampling=1)
TOKENS = 6


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 of random weights laid out as in a CogVideoX snapshot: the tokenizer is a spiece.model alone."""
    import sentencepiece

    mend_torchvision()
    from transformers import T5Config, T5EncoderModel

    folder = tmp_path_factory.mktemp("snapshot")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=model, vocab_size=32, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "spiece.model").write_bytes(model.getvalue())
    settings = {
        "tokenizer_class": "T5Tokenizer", "model_max_length": 226, "extra_ids": 100, "legacy": True,
        "additional_special_tokens": [f"<extra_id_{n}>" for n in range(100)],
        "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = T5Config(vocab_size=140, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
        T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def encoder(snapshot: Path) -> TextEncoder:
    return TextEncoder(*load_text_encoder(snapshot))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(0, SCENES)


@pytest.fixture
def index(clip: Clip, tmp_path: Path) -> ShardIndex:
    clips = [replace(clip, caption=caption) for caption in CAPTIONS]
    return write_shards(clips, tmp_path / "shards", clips_per_shard=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("text*"))}


def test_a_snapshots_tokenizer_gives_sentencepieces_ids(snapshot, encoder) -> None:
    import sentencepiece

    truth = sentencepiece.SentencePieceProcessor()
    truth.Load(str(snapshot / "tokenizer" / "spiece.model"))
    for text in SENTENCES:
        assert encoder.tokenizer(text).input_ids == [*truth.EncodeAsIds(text), 1]
        assert encoder.length(text) == len(truth.EncodeAsIds(text)) + 1


def test_embeddings_are_those_of_diffusers_pipeline(encoder) -> None:
    from diffusers import CogVideoXImageToVideoPipeline

    nothing: Any = None
    pipeline = CogVideoXImageToVideoPipeline(
        encoder.tokenizer, encoder.network, nothing, nothing, nothing
    )
    expected = pipeline.encode_prompt(
        CAPTIONS, do_classifier_free_guidance=False, max_sequence_length=TOKENS
    )[0]
    found = encoder.encode(CAPTIONS, TOKENS)
    assert found.shape == (5, TOKENS, 8)
    torch.testing.assert_close(found, expected)


def test_captions_have_their_own_embedding_and_others_the_empty_prompts(
    index, encoder, snapshot
) -> None:
    account = write_text(index, encoder, snapshot, num_tokens=TOKENS)
    assert (account.captions, account.empty, account.cut) == (3, 2, 1)
    stored = open_text(index)
    for number, caption in enumerate(CAPTIONS):
        expected = encoder.encode([caption], TOKENS)[0]
        found = stored.of(open_clip(index, number))
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    assert verify(index.folder).problems == []


def test_a_stopped_run_goes_on_to_the_same_bytes(index, encoder, snapshot) -> None:
    write_text(index, encoder, snapshot, num_tokens=TOKENS, batch_size=3)
    whole = contents(index.folder)
    for path in index.folder.glob("text*"):
        path.unlink()

    def stop_at_four(clips: int, done: list[int] = []) -> None:  # noqa: B006
        done.append(clips)
        if sum(done) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_text(index, encoder, snapshot, num_tokens=TOKENS, batch_size=3, progress=stop_at_four)
    with pytest.raises(UserError, match="no stored text embeddings 'text'"):
        open_text(index)
    account = write_text(
        index, encoder, snapshot, num_tokens=TOKENS, batch_size=3, existing="resume"
    )
    assert account.captions + account.empty < len(CAPTIONS)
    assert contents(index.folder) == whole


def test_two_processes_give_the_bytes_of_one(index, snapshot, capsys) -> None:
    arguments = [str(index.folder), "--encoder", str(snapshot), "--tokens", str(TOKENS)]
    assert main(arguments) == 0
    whole = contents(index.folder)
    for path in index.folder.glob("text*"):
        path.unlink()
    capsys.readouterr()
    assert main([*arguments, "--world-size", "2", "--rank", "1"]) == 0
    assert "rank 1 of 2 has done its share (embeddings of 2 clips" in capsys.readouterr().out
    with pytest.raises(UserError, match="no stored text embeddings"):
        open_text(index)
    assert main([*arguments, "--world-size", "2", "--rank", "0"]) == 0
    assert contents(index.folder) == whole


def test_the_command_says_what_it_did_and_refuses_to_mix(index, snapshot, capsys) -> None:
    arguments = [str(index.folder), "--encoder", str(snapshot), "--tokens", str(TOKENS)]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert (
        "'text' of 5 clips (5 of them new: 3 captions, 2 without one), 6 tokens of width 8" in told
    )
    assert "captions cut off after 6 tokens: 1" in told
    with pytest.raises(UserError, match="already holds finished shards; add --resume"):
        main(arguments)
    with pytest.raises(UserError, match="captions was True, now it is False"):
        main([*arguments, "--empty", "--resume"])
    assert main([*arguments, "--empty", "--name", "no_captions"]) == 0
    none = open_text(ShardIndex.load(index.folder), "no_captions")
    assert torch.equal(none.of(open_clip(index, 0)), none.empty)
    assert torch.equal(none.empty, open_text(index).empty)


def test_folders_of_different_lengths_are_not_mixed(
    index, clip, encoder, snapshot, tmp_path
) -> None:
    write_text(index, encoder, snapshot, num_tokens=TOKENS)
    other = write_shards([clip], tmp_path / "other")
    write_text(other, encoder, snapshot, num_tokens=4)
    with pytest.raises(UserError, match=r"other.*num_tokens is 4, but that of .*shards is 6"):
        open_texts([index, other], "text")


def test_what_is_missing_is_one_sentence_with_the_cure(snapshot, index, tmp_path) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            main([str(index.folder), "--encoder", str(folder)])
        assert "\n" not in str(caught.value)
        assert contents(index.folder) == {}

    refused(tmp_path / "none", r"no text encoder.*no tokenizer/.*hf download")
    broken = tmp_path / "broken"
    shutil.copytree(snapshot, broken)
    weights = broken / "text_encoder" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    kept = {name: x for name, x in load_file(weights).items() if "final_layer_norm" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    refused(broken, r"1 weights are missing.*final_layer_norm.*hf download")
    weights.write_bytes(weights.read_bytes()[:-50])
    refused(broken, "is not a loadable text encoder")
    weights.unlink()
    refused(broken, "is not a loadable text encoder")
    with pytest.raises(UserError, match=r"no stored text embeddings 'text'; make them with"):
        open_text(index)
