#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What is true of the library as a file, before anybody runs it: it is in every process of a node, so it needs nothing but libc, an old
# one will do, it does nothing when it is loaded, and it offers nothing but what it takes over. The same for the builds that packagers
# make: optimised, without debug information, with another compiler.

setup_file() {
  export WORK=$BATS_FILE_TMPDIR
  builds=("$BUILD")
  build_as release gcc Release
  if command -v clang >/dev/null; then
    build_as clang clang Release
  fi
  if command -v aarch64-linux-gnu-gcc >/dev/null; then
    build_as aarch64 aarch64-linux-gnu-gcc Release -DCMAKE_TOOLCHAIN_FILE="$SOURCE/packaging/aarch64-linux-gnu.cmake"
  fi
  export BUILDS="${builds[*]}"
}

build_as() { # name compiler type option...: a library of its own in $WORK/name
  cmake -S "$SOURCE" -B "$WORK/$1" -DCMAKE_C_COMPILER="$2" -DCMAKE_ASM_COMPILER="$2" -DCMAKE_BUILD_TYPE="$3" "${@:4}" >/dev/null
  cmake --build "$WORK/$1" --target softmig_preload -j 2 >/dev/null
  builds+=("$WORK/$1")
}

every_build() { # function: called with each library
  local build
  for build in $BUILDS; do
    echo "in $build:"
    "$1" "$build/libsoftmig.so" # not after && or ||: bash would go on behind a failed line in it
  done
}

is_empty() { # what text: fails showing text, if there is any
  [ -z "$2" ] || {
    echo "$1: $2"
    return 1
  }
}

# Names that the library takes from others, versions cut off.
imports() { nm -D --undefined-only "$1" | awk '{ sub(/@.*/, "", $NF); print $NF }' | sort -u; }

needs_only_libc() {
  is_empty "it needs" "$(readelf -dW "$1" | awk '/\(NEEDED\)/ && !/\[libc\.so\.6\]/ && !/\[ld-linux/')"
  readelf -dW "$1" | grep -q 'NEEDED.*\[libc\.so\.6\]'
  is_empty "it looks elsewhere" "$(readelf -dW "$1" | grep -E 'RPATH|RUNPATH')"
}
@test "the library needs libc and nothing else" { every_build needs_only_libc; }

uses_old_symbols() {
  local newest
  newest=$(readelf -VW "$1" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
  [ -n "$newest" ]
  [ "$(printf '%s\nGLIBC_2.17\n' "$newest" | sort -V | tail -n 1)" = GLIBC_2.17 ] || {
    echo "needs $newest: $(nm -D "$1" | grep "$newest")"
    return 1
  }
  # A symbol without a version binds to whatever comes first.
  is_empty "without a version" "$(nm -D --undefined-only "$1" | grep -v '@GLIBC_' | grep -v ' w ')"
}
@test "no symbol is newer than GLIBC_2.17" { every_build uses_old_symbols; } # on aarch64 there is no older one

exports_only_hooks() {
  diff <({
    sed -n 's/^HOOK(\([A-Za-z0-9_]*\),.*/\1/p' "$SOURCE/src/preload/hooks.def"
    printf 'dlsym\ndlvsym\n'
  } | sort) <(nm -D --defined-only "$1" | awk '{ print $NF }' | sort)
  is_empty "not a function" "$(nm -D --defined-only "$1" | awk '$2 != "T"')"
}
@test "it exports the hooks, dlsym and dlvsym, as functions, and nothing else" {
  [ "$(grep -c '^HOOK(' "$SOURCE/src/preload/hooks.def")" -gt 10 ]
  every_build exports_only_hooks
}

does_nothing_when_loaded() {
  is_empty "it runs something at start or end" \
    "$(readelf -dW "$1" | grep -E '\((INIT|FINI|INIT_ARRAY|FINI_ARRAY|PREINIT_ARRAY|INIT_ARRAYSZ|FINI_ARRAYSZ)\)')"
  is_empty "it runs something at start or end" "$(readelf -SW "$1" | grep -E '\.(init|fini|init_array|fini_array|ctors|dtors|preinit_array)\b')"
  is_empty "it runs resolvers while it is loaded" "$(readelf -rW "$1" | grep IRELATIV)"
  is_empty "it takes room in every thread" "$(readelf -lW "$1" | grep -E '^ *TLS')"
}
@test "nothing of it runs when it is loaded or unloaded" { every_build does_nothing_when_loaded; }

is_hardened() {
  readelf -dW "$1" | grep -q 'FLAGS_1.*NOW'
  readelf -lW "$1" | grep -q GNU_RELRO
  is_empty "its text is written to" "$(readelf -dW "$1" | grep TEXTREL)"
  is_empty "its stack is executable" "$(readelf -lW "$1" | grep GNU_STACK | grep E)"
  readelf -lW "$1" | grep -q GNU_STACK # without it the loader makes the stack executable
  is_empty "written and executed" "$(readelf -lW "$1" | awk '$1 == "LOAD" && /RWE/')"
}
@test "it is bound at once, its stack is not executable, its text is not written" { every_build is_hardened; }

calls_nothing_forbidden() {
  # No allocation, no output, no end of the process, no thread, no signal handler, no change of what is the program's.
  local forbidden='malloc|calloc|realloc|free|reallocarray|posix_memalign|aligned_alloc|memalign|strdup|strndup|asprintf'
  forbidden+='|v?f?printf|v?dprintf|v?s?n?printf|_*v?[fs]?n?printf_chk|puts|fputs|fwrite|fopen|fclose|perror|stdout|stderr|stdin|syslog'
  forbidden+='|exit|_exit|_Exit|abort|__assert_fail|raise|pthread_create|thrd_create|fork|vfork|execve|system|popen|atexit|__cxa_atexit'
  forbidden+='|pthread_atfork|__register_atfork|signal|sigaction|setenv|putenv|unsetenv|umask|chdir|setlocale|strerror|dlopen|dlclose|dlerror'
  forbidden+='|__stack_chk_fail|__tls_get_addr'
  is_empty "it calls" "$(imports "$1" | grep -xE "$forbidden")"
}
@test "it calls nothing that allocates, prints, ends or changes a process" { every_build calls_nothing_forbidden; }

@test "libvgpu.so is a second name of the same file" {
  for build in $BUILDS; do
    [ -L "$build/libvgpu.so" ]
    [ "$(readlink "$build/libvgpu.so")" = libsoftmig.so ]
    cmp "$build/libvgpu.so" "$build/libsoftmig.so"
  done
}

loads_everywhere() {
  local expected
  case $1 in "$WORK/aarch64/"*) return ;; esac # aarch64.bats runs it
  expected=$(env -i /bin/echo hello)
  [ "$(env -i LD_PRELOAD="$1" /bin/echo hello 2>&1)" = "$expected" ]
  # Every reference is bound, or the loader says so.
  is_empty "unresolved" "$(env -i LD_PRELOAD="$1" LD_WARN=1 LD_BIND_NOW=1 LD_TRACE_LOADED_OBJECTS=1 /bin/true 2>&1 | grep -E 'undefined|not found')"
}
@test "it loads into a program, all its references bound, without a word" { every_build loads_everywhere; }
