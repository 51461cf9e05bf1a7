# What the scripts of all trainers share: settings from the environment, one run, one protocol per function.
# shellcheck shell=bash disable=SC2086  # SEEDS is a list of words

set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
DATA="${DATA:-data}"
SEEDS="${SEEDS:-1 2 3}"
OUTPUT="${OUTPUT:-output}"
export PYTHONPATH="$HERE${PYTHONPATH:+:$PYTHONPATH}"

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python
    if [[ -z "${VIRTUAL_ENV:-}" && -x "$HERE/.venv/bin/python" ]]; then PYTHON="$HERE/.venv/bin/python"; fi
fi

usage() {
    cat <<EOF
Usage: bash $0 $1

  $2

Environment (default):
  DATA      folder of the datasets ($DATA)
  SEEDS     seeds, one run each ($SEEDS)
  CFG       trainer config in configs/trainers/$TRAINER/, without .yaml ($CFG)
  BACKBONE  name or path of the backbone (the config's; icon-clip for icons_*)
  OUTPUT    where runs are written ($OUTPUT)
  DEVICE    cpu or cuda (cuda where there is one)
  PYTHON    the interpreter ($PYTHON)
A run that was interrupted goes on where it stopped when the same command is given again.
EOF
}

# run_train DATASET SEED OUTPUT_DIR [train.py's other arguments ...] [KEY VALUE ...]
run_train() {
    local dataset=$1 seed=$2 dir=$3
    shift 3
    local options=(--root "$DATA" --seed "$seed" --trainer "$TRAINER" --output-dir "$dir"
        --dataset-config-file "$HERE/configs/datasets/$dataset.yaml"
        --config-file "$HERE/configs/trainers/$TRAINER/$CFG.yaml")
    local backbone=${BACKBONE:-}
    if [[ -z "$backbone" && "$dataset" == icons_* ]]; then backbone=icon-clip; fi # they go together
    if [[ -n "$backbone" ]]; then options+=(--backbone "$backbone"); fi
    local keys=()
    case "${DEVICE:-}" in
        "") ;;
        cpu) keys=(USE_CUDA False) ;;
        cuda) keys=(USE_CUDA True) ;;
        *) echo "error: DEVICE is \"$DEVICE\": give cpu or cuda" >&2; return 1 ;;
    esac
    "$PYTHON" "$HERE/train.py" "${options[@]}" "$@" ${keys[@]+"${keys[@]}"}
}

# base2new DATASET [SHOTS]: train on the base classes, test on base and new classes; no SHOTS: nothing is trained.
base2new() {
    local what="Base-to-new generalisation: train on the first half of the classes, test on both halves."
    local arguments="DATASET SHOTS"
    if [[ "$TRAINER" == Zeroshot* ]]; then
        arguments="DATASET" what="Base-to-new generalisation of $TRAINER: test on each half of the classes."
    fi
    if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "$arguments" "$what"; return; fi
    local wanted
    wanted=$(wc -w <<<"$arguments")
    if [[ $# -ne $wanted ]]; then usage "$arguments" "$what" >&2; return 2; fi
    local dataset=$1 shots=${2:-} seed base new
    for seed in $SEEDS; do
        if [[ -z "$shots" ]]; then
            base="$OUTPUT/base2new/test_base/$dataset/$TRAINER/$CFG/seed$seed"
            new="$OUTPUT/base2new/test_new/$dataset/$TRAINER/$CFG/seed$seed"
            run_train "$dataset" "$seed" "$base" --eval-only DATASET.SUBSAMPLE_CLASSES base
            run_train "$dataset" "$seed" "$new" --eval-only DATASET.SUBSAMPLE_CLASSES new
        else
            base="$OUTPUT/base2new/train_base/$dataset/shots_$shots/$TRAINER/$CFG/seed$seed"
            new="$OUTPUT/base2new/test_new/$dataset/shots_$shots/$TRAINER/$CFG/seed$seed"
            run_train "$dataset" "$seed" "$base" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base
            run_train "$dataset" "$seed" "$new" --eval-only --model-dir "$base" \
                DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES new
        fi
    done
    "$PYTHON" -m benchmark.base2new "$OUTPUT" --dataset "$dataset" --trainer "$TRAINER" --config "$CFG" \
        --seeds $SEEDS ${shots:+--shots "$shots"}
}

# incremental DATASET SHOTS: train on the base classes, go on with the new ones, test on base classes and on all; with
# TRAINER and CFG, then with each TRAINER/CONFIG of BESIDE.
incremental() {
    local what="Continual learning: train on the first half of the classes, go on with the second half alone, then test
  on either half and on all classes. TRAINER and CFG choose the method, BESIDE others to compare (\"TRAINER/CONFIG ...\";
  here: \"${BESIDE:-}\")."
    if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage "DATASET SHOTS" "$what"; return; fi
    if [[ $# -ne 2 ]]; then usage "DATASET SHOTS" "$what" >&2; return 2; fi
    local dataset=$1 shots=$2 method seed part base new
    local methods="$TRAINER/$CFG ${BESIDE:-}" TRAINER CFG
    for method in $methods; do
        TRAINER="${method%%/*}" CFG="${method#*/}"
        for seed in $SEEDS; do
            base="$OUTPUT/incremental/train_base/$dataset/shots_$shots/$TRAINER/$CFG/seed$seed"
            new="$OUTPUT/incremental/train_new/$dataset/shots_$shots/$TRAINER/$CFG/seed$seed"
            run_train "$dataset" "$seed" "$base" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES base
            run_train "$dataset" "$seed" "$new" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES new \
                MODEL.INIT_WEIGHTS "$(last_weights "$base")"
            for part in base all; do
                run_train "$dataset" "$seed" \
                    "$OUTPUT/incremental/test_$part/$dataset/shots_$shots/$TRAINER/$CFG/seed$seed" \
                    --eval-only --model-dir "$new" DATASET.NUM_SHOTS "$shots" DATASET.SUBSAMPLE_CLASSES "$part"
            done
        done
    done
    "$PYTHON" -m benchmark.incremental "$OUTPUT" --dataset "$dataset" --shots "$shots" --seeds $SEEDS --methods $methods
}

# last_weights DIR: the checkpoint that a run ended with, the best on val where it chose that.
last_weights() {
    local folder="$1/prompt_learner"
    if [[ -f "$folder/model-best.pth.tar" ]]; then
        echo "$folder/model-best.pth.tar"
    else
        echo "$folder/$(<"$folder/checkpoint")"
    fi
}

# czsl DATASET: compositional zero-shot learning; train on the seen pairs, test in the closed world and, CSP, the open.
czsl() {
    local what="Compositional zero-shot learning: train on seen pairs, test on seen and unseen ones."
    if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then usage DATASET "$what"; return; fi
    if [[ $# -ne 1 ]]; then usage DATASET "$what" >&2; return 2; fi
    local dataset=$1 seed closed
    for seed in $SEEDS; do
        closed="$OUTPUT/czsl/closed/$dataset/$TRAINER/$CFG/seed$seed"
        if [[ "$TRAINER" == Zeroshot* ]]; then
            run_train "$dataset" "$seed" "$closed" --eval-only
        else
            run_train "$dataset" "$seed" "$closed"
        fi
        if [[ "$TRAINER" == CSP ]]; then
            run_train "$dataset" "$seed" "$OUTPUT/czsl/open/$dataset/$TRAINER/$CFG/seed$seed" --eval-only \
                --model-dir "$closed" TRAINER.CSP.OPEN_WORLD True
        fi
    done
    "$PYTHON" -m benchmark.czsl "$OUTPUT" --dataset "$dataset" --trainer "$TRAINER" --config "$CFG" --seeds $SEEDS
}
