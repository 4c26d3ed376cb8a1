#!/usr/bin/env bash
# Does cross-attention guidance help? One attack's part of the study: each question is one sweep, tables and plots in FOLDER/tables/QUESTION.
#
#     benchmarks/skdcag_study.sh badt2i_style results/study-badt2i_style [python] [flags of run_bench.py ...]
#
# Everything goes into one run folder, so that cells that several questions share are made once, and a killed study goes on where it was.
set -euo pipefail
attack=$1 out=$2 python=${3:-python}
shift $(($# < 3 ? $# : 3))
both="none,skd,skdcag"

ask() { # name, then flags
    local name=$1
    shift
    rm -f "$out"/sweep-*.png
    "$python" run_bench.py --scale study --attacks "$attack" --out "$out" "$@" "${extra[@]}"
    mkdir -p "$out/tables/$name"
    cp "$out"/{table.csv,table.md,rows.csv,run.json} "$out/tables/$name/"
    find "$out" -maxdepth 1 -name 'sweep-*.png' -exec cp {} "$out/tables/$name/" \;
}

extra=("$@")
ask alpha --defenses none,skdcag --sweep skdcag.alpha=0,0.3,0.5,0.7,1
ask targets --defenses none,skd,skdcag_gaussian,skdcag_black,skdcag_random_words
ask steps --defenses "$both" --sweep skd.steps=25,50,100,200,300 --sweep skdcag.steps=25,50,100,200,300
ask latents --defenses "$both" --sweep skd.latents=own,noise,trajectory --sweep skdcag.latents=own,noise,trajectory
ask prompts --defenses "$both" --sweep skd.prompts=10,30,100,300 --sweep skdcag.prompts=10,30,100,300
ask time_weight --defenses none,skdcag --sweep skdcag.time_weight=false,true
ask reverse_time --defenses none,skdcag --set skdcag.time_weight=true --sweep skdcag.reverse_time=false,true
ask preserve --defenses "$both" --sweep skd.preserve=0,1 --sweep skdcag.preserve=0,1
ask bias --defenses "$both" --sweep skd.bias=1,2,3 --sweep skdcag.bias=1,2,3
ask known --defenses "$both" --set "$attack.trigger=mignneko brelvo" --sweep skd.known=all,first,last --sweep skdcag.known=all,first,last
for defect in detached shared_maps uniform_noise fixed_span copied_average unpreserved; do
    ask "released-$defect" --defenses none,skdcag,skdcag_released --sweep "skdcag_released.$defect=true,false"
done
