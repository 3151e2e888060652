#!/usr/bin/env bash
# Makes the models of this folder from nothing but the corpus generator: texts, tokenizer, shards, thirteen runs of training
# (each goes on where it was stopped), GGUF files. Everything between is in build/tiny.
set -euo pipefail
cd "$(dirname "$0")/../.."
qnext=build/release/qnext tiny=build/tiny here=models/qnext-tiny
mkdir -p $tiny

synth() {  # folder seed kind count
  mkdir -p "$1"
  [ -f "$1/$3.jsonl" ] || $qnext data synth --out "$1" --kind "$3" --count "$4" --seed "$2"
}
# To begin with: a bit of everything.
synth $tiny 1 stories 60000
synth $tiny 1 descriptions 10000
synth $tiny 1 dialogues 10000
synth $tiny 1 facts 6000
synth $tiny 1 arithmetic 60000
synth $tiny 1 problems 40000
synth $tiny 1 instructions 40000
texts() {  # stage seed problems problems-thinking arithmetic instructions stories
  synth "$tiny/$1-texts" "$2" problems "$3"
  synth "$tiny/$1-texts" "$2" problems-thinking "$4"
  synth "$tiny/$1-texts" "$2" arithmetic "$5"
  synth "$tiny/$1-texts" "$2" instructions "$6"
  synth "$tiny/$1-texts" "$2" stories "$7"
}
texts mid 2 90000 60000 70000 45000 15000    # then mostly problems
texts late 4 80000 55000 50000 25000 15000   # the same, worked in finer steps than when the models that ship were at mid
texts final 5 90000 80000 20000 15000 12000  # more of it
texts long 8 110000 80000 30000 40000 26000  # as much as all before together, in all kinds of words, answers in finer steps

first=($tiny/{stories,descriptions,dialogues,facts,arithmetic,problems,instructions}.jsonl)
[ -f $tiny/own/tokenizer.json ] || $qnext data tokenizer $tiny/own "${first[@]}" --vocab-size 4096
for name in instruct thinking; do
  mkdir -p $tiny/forms/$name
  cp $tiny/own/* $here/$name/* $tiny/forms/$name/
done
pack() {  # shard, form, texts
  [ -f "$tiny/$1.safetensors" ] || $qnext data pack "$tiny/$1.safetensors" "${@:3}" --tokenizer "$tiny/forms/$2/tokenizer.json"
}
pack text instruct "${first[@]}"
for stage in mid late final long; do
  pack $stage-text instruct $tiny/$stage-texts/{stories,arithmetic,problems,instructions}.jsonl
  pack $stage-thoughts thinking $tiny/$stage-texts/problems-thinking.jsonl
done
answers() {  # stage seed form kind count instructions: what is learned are the answers alone
  synth "$tiny/$1-texts" "$2" "$4" "$5"
  synth "$tiny/$1-texts" "$2" instructions "$6"
  pack "$1" "$3" "$tiny/$1-texts/$4.jsonl" "$tiny/$1-texts/instructions.jsonl"
}
answers answers 3 instruct problems 12000 8000
answers chat 6 instruct problems 5000 9000  # more of all else, which so many problems made them forget
answers thoughts-1 9 thinking problems-thinking 20000 24000
answers thoughts-2 10 thinking problems-thinking 60000 12000
answers thoughts-3 12 thinking problems-thinking 75000 15000
answers thoughts-4 14 thinking problems-thinking 60000 12000
answers instruct 15 instruct problems 11000 12000
answers thinking 16 thinking problems-thinking 9000 6000

for stage in base mid late final answers chat long thoughts-{1,2,3,4} instruct thinking; do
  resume=(); [ -f $tiny/$stage/checkpoint.safetensors ] && resume=(--resume)
  [ -f $tiny/$stage/model.safetensors ] || $qnext train $here/$stage.json --out $tiny/$stage "${resume[@]}"
done
$qnext convert $tiny/late $here/qnext-tiny-base.gguf --type q8_0 --force
for stage in instruct thinking; do
  $qnext convert $tiny/$stage $here/qnext-tiny-$stage.gguf --type q8_0 --force
done
