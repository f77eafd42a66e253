#!/bin/bash
# Builds the guest kernel.
#
#   build.sh SOURCE OUT [JOBS]
#
# SOURCE is a Linux source tree, or a tarball of one, which is unpacked into OUT/source.
# OUT/build is the build tree; a second run in the same OUT compiles what has changed.
# What counts at the end is OUT/vmlinux (no symbols), OUT/config and OUT/version. Progress goes to
# standard error.
#
# The configuration is config/*.config and nothing else: an option nobody asks for there is off. A line
# that Linux does not honour (renamed, removed, or missing what it depends on) is named, and ends the build.
#
# Same source, fragments and compiler: same bytes.

set -euo pipefail

[ $# -ge 2 ] || { echo "usage: build.sh SOURCE OUT [JOBS]" >&2; exit 2; }
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)
source=$1
mkdir -p "$2"
out=$(CDPATH='' cd "$2" && pwd)
jobs=${3:-$(nproc)}

# Nothing of who builds, when and where gets into the kernel. The date is what `uname -v` shows.
export LC_ALL=C TZ=UTC
export KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_VERSION=1
export KBUILD_BUILD_USER=microvm KBUILD_BUILD_HOST=microvm
unset KCFLAGS KAFLAGS KCPPFLAGS MAKEFLAGS LOCALVERSION
umask 022

say() { echo "kernel: $*" >&2; }

if [ -f "$source" ]; then
    if [ ! -f "$out/source/.unpacked" ]; then
        say "unpacking $(basename "$source")"
        rm -rf "$out/source"
        mkdir "$out/source"
        tar --extract --file "$source" --directory "$out/source" --strip-components 1
        touch "$out/source/.unpacked"
    fi
    source=$out/source
fi
[ -f "$source/Kconfig" ] || { say "$source is not a Linux source tree"; exit 1; }

kmake() { make --directory "$source" O="$out/build" ARCH=x86_64 --jobs "$jobs" "$@"; }

say "configuring"
mkdir -p "$out/build"
cat "$here"/config/*.config > "$out/asked"
KCONFIG_ALLCONFIG=$out/asked kmake --silent allnoconfig

# An option is asked for once, and `=n` means that it is absent or "not set".
awk '
    FNR == 1 { file = FILENAME; sub(".*/", "", file) }
    /^(#.*)?$/ { next }
    !/^CONFIG_/ { print file ": not an option: " $0; bad = 1; next }
    {
        name = $0; sub("=.*", "", name)
        value = substr($0, length(name) + 2)
        if (!asking) { final[name] = value; next }
        if (name in asked) { print file ": asked twice: " name; bad = 1 }
        asked[name] = 1
        got = (name in final) ? final[name] : "n"
        if (got != value) { print file ": " $0 " did not survive, it is " got; bad = 1 }
    }
    END { exit bad }
' "$out/build/.config" asking=1 "$here"/config/*.config >&2 || {
    say "the configuration is not the one asked for"
    exit 1
}

kmake --silent kernelversion > "$out/version"
say "compiling Linux $(cat "$out/version") with $jobs jobs"
# Warnings are Linux's to deal with, and not tracking macros for them saves a tenth of the time. The
# loader needs no segment to begin at 2 MiB of the file, as the boot decompressor does.
kmake vmlinux KCFLAGS='-w -ftrack-macro-expansion=0' \
    LDFLAGS_vmlinux='-z max-page-size=4096 --build-id=sha1 --orphan-handling=warn' |
    awk '/^  [A-Z]/ && ++files % 250 == 0 { print "kernel: " files " files" > "/dev/stderr" }'

# No bzImage: the VMM loads the ELF file itself. The kernel's own symbol table for backtraces is data
# and stays.
strip --strip-all -o "$out/vmlinux.new" "$out/build/vmlinux"
mv "$out/vmlinux.new" "$out/vmlinux"
cp "$out/build/.config" "$out/config"
say "$(grep -c '=y$' "$out/config") options on, vmlinux is $(stat -c %s "$out/vmlinux") bytes"
