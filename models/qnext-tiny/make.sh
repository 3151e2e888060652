#!/usr/bin/env bash
# Makes the models of this folder from nothing but the corpus generator: texts, tokenizer, shards, nine runs of training
# (each goes on where it was stopped), GGUF files. Everything between is in build/tiny.
set -euo pipefail
cd "$(dirname "$0")/../.."
qnext=build/release/qnext tiny=build/tiny here=models/qnext-tiny
mkdir -p $tiny/{mid,late,final,sft,chat,long,form}-texts

synth() {  # folder seed kind count
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
# Then mostly problems.
more=$tiny/mid-texts
synth $more 2 problems 90000
synth $more 2 problems-thinking 60000
synth $more 2 arithmetic 70000
synth $more 2 instructions 45000
synth $more 2 stories 15000
# The same, worked in finer steps than when the models that ship were at mid.
late=$tiny/late-texts
synth $late 4 problems 80000
synth $late 4 problems-thinking 55000
synth $late 4 arithmetic 50000
synth $late 4 instructions 25000
synth $late 4 stories 15000
# More of it.
final=$tiny/final-texts
synth $final 5 problems 90000
synth $final 5 problems-thinking 80000
synth $final 5 arithmetic 20000
synth $final 5 instructions 15000
synth $final 5 stories 12000
# Answers only.
sft=$tiny/sft-texts
synth $sft 3 problems 12000
[ -f $sft/instructions.jsonl ] || head -n 8000 $late/instructions.jsonl > $sft/instructions.jsonl
# More of all else, which so many problems made them forget.
chat=$tiny/chat-texts
synth $chat 6 instructions 9000
synth $chat 6 problems 5000
# As much as all before together, in all kinds of words and with answers in finer steps.
long=$tiny/long-texts
synth $long 8 problems 110000
synth $long 8 problems-thinking 80000
synth $long 8 instructions 40000
synth $long 8 stories 26000
synth $long 8 arithmetic 30000
# Answers only, in the one form or the other.
form=$tiny/form-texts
synth $form 9 problems 26000
synth $form 9 problems-thinking 20000
synth $form 9 instructions 24000

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
pack answers instruct $sft/problems.jsonl $sft/instructions.jsonl
pack chat instruct $chat/problems.jsonl $chat/instructions.jsonl
pack instruct instruct $form/problems.jsonl $form/instructions.jsonl
pack thinking thinking $form/problems-thinking.jsonl $form/instructions.jsonl

for stage in base mid late final answers chat long instruct thinking; do
  resume=(); [ -f $tiny/$stage/checkpoint.safetensors ] && resume=(--resume)
  [ -f $tiny/$stage/model.safetensors ] || $qnext train $here/$stage.json --out $tiny/$stage "${resume[@]}"
done
$qnext convert $tiny/late $here/qnext-tiny-base.gguf --type q8_0 --force
for stage in instruct thinking; do
  $qnext convert $tiny/$stage $here/qnext-tiny-$stage.gguf --type q8_0 --force
done
