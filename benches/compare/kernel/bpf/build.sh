#!/usr/bin/env bash
# Builds the object files of the kernel rows, which are committed beside their sources. Into another
# folder if one is named; needs clang, llvm-strip and the kernel's headers (Debian: clang llvm
# linux-libc-dev).
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}

for program in flood hairpin; do
  # No path of the machine gets into the object, and asm/types.h is where Debian has it.
  clang -O2 -g -target bpf -mcpu=v3 -nostdinc -Wall -Wextra -Werror -Wno-unused-parameter \
    -fno-ident -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=. \
    -idirafter /usr/include -idirafter "/usr/include/$(uname -m)-linux-gnu" \
    -c "$program.bpf.c" -o "$out/$program.bpf.o"
  llvm-strip -g "$out/$program.bpf.o"
done
