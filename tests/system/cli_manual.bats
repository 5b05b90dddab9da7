#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2143 # a plain ! does not fail a test
# Manual pages and completion: every verb and option is in them, and they are well-formed.

bats_require_minimum_version 1.5.0

setup() {
	softmig=$BUILD/softmig
	as_nobody=()
	[ "$(id -u)" -ne 0 ] || as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
}

verbs() {
	"$softmig" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'
}

options() { # options VERB
	"$softmig" "$1" --help | grep -oE -- '--[a-z][a-z-]*' | sort -u
}

page() { # page NAME: as plain text
	mandoc -Tutf8 "$1" | sed 's/.\x08//g'
}

# Every option that any verb might have: those of the program's tables, and those that help and manual talk of.
candidates() {
	{
		grep -ohE '\{ "[a-z-]+", (no|required|optional)_argument' "$SOURCE"/src/cli/*.c | sed 's/{ "/--/; s/".*//'
		grep -ohE '"[a-z-]+" : NULL, (no|required)_argument' "$SOURCE"/src/cli/*.c | sed 's/"/--/; s/".*//'
		for verb in $(verbs); do options "$verb"; done
		grep -ohE 'Fl -[a-z][a-z-]+' "$SOURCE"/man/*.[1-8] | sed 's/Fl -/--/'
	} | sort -u
}

# taken VERB [WORD]: which of them it takes. Those that need a value do not get one, and those that need none change nothing.
taken() {
	# by nobody, who may change nothing of this machine, whatever is taken
	# shellcheck disable=SC2016
	"${as_nobody[@]}" bash -c 'for option in $candidates --help; do
		output=$("$@" "$option" 2>&1 </dev/null)
		[[ "$output" == *"is not understood"* || "$output" == *"is not for"* ]] || echo "$option"
	done' _ "$softmig" "$@" | sort -u
}

@test "help, manual and completion name the options that a verb takes, all of them and no other" {
	candidates=$(candidates)
	export candidates
	[ "$(wc -l <<<"$candidates")" -gt 20 ]
	for verb in $(verbs); do
		if [ "$verb" = slice ]; then
			real=$({ taken slice create; taken slice resize; taken slice delete; taken slice fail; } | sort -u)
		else
			real=$(taken "$verb" | grep -vx -e --probe) # which doctor's own scratch process alone has
		fi
		diff <(echo "$real") <(options "$verb") || { echo "softmig $verb --help"; return 1; }
		diff <(echo "$real") <(complete softmig "$verb" --) || { echo "completion of $verb"; return 1; }
		file=$(readlink -f "$SOURCE/man/softmig-$verb".[18])
		[ "${file##*/}" != softmig-install.8 ] || real=$(for v in install enable disable update uninstall; do taken $v; done | sort -u)
		diff <(echo "$real") <(grep -ohE 'Fl -[a-z][a-z-]+' "$file" | sed 's/Fl -/--/' | sort -u) || { echo "$file"; return 1; }
	done
}

@test "every verb has a manual page that names each of its options" {
	for verb in $(verbs); do
		file=$(echo "$SOURCE/man/softmig-$verb".[18])
		[ -e "$file" ] || { echo "softmig-$verb has no page"; return 1; }
		text=$(page "$file")
		for option in $(options "$verb"); do
			grep -qF -- "$option" <<<"$text" || { echo "$file does not name $option"; return 1; }
		done
	done
}

@test "softmig(1) names every verb" {
	text=$(page "$SOURCE/man/softmig.1")
	for verb in $(verbs); do
		grep -qwF -- "$verb" <<<"$text" || { echo "softmig.1 does not name $verb"; return 1; }
	done
}

@test "every key that the limit file knows is in softmig-limits(5)" {
	text=$(page "$SOURCE/man/softmig-limits.5")
	for key in $(grep -ohE '"(CUDA_DEVICE|ACTIVE|SOFTMIG|LIBCUDA)_[A-Z_]+' "$SOURCE"/src/slice/limits*.c "$SOURCE"/src/slice/log.c | tr -d '"' | sort -u); do
		grep -qF -- "${key%_}" <<<"$text" || { echo "softmig-limits.5 does not name $key"; return 1; }
	done
}

@test "the pages are well-formed" {
	command -v mandoc >/dev/null || skip "needs mandoc"
	run mandoc -Tlint -W warning "$SOURCE"/man/*.[1-8]
	echo "$output"
	[ "$status" -eq 0 ]
	for file in "$SOURCE"/man/*.[1-8]; do
		run env MANROFFSEQ= MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$file"
		[ -z "$(grep -a -E 'warning|error' <<<"$output" | grep -a 'standard input')" ]
	done
}

complete() { # complete WORD...: what completion offers for the last word
	bash -c '. "$SOURCE/packaging/softmig.completion"
		PATH=$BUILD:$PATH
		COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
		compopt() { :; }
		_softmig
		printf "%s\n" "${COMPREPLY[@]}" | sort' _ "$@"
}

@test "completion offers verbs, the options of a verb, and commands after them" {
	[ "$(complete softmig un)" = uninstall ]
	[ "$(complete softmig status --js)" = --json ]
	[ "$(complete softmig run --mem)" = --memory ]
	[ -z "$(complete softmig run --memory '')" ]
	[[ "$(complete softmig run --memory 4G -- base64)" == *base64* ]]
	[ -z "$(complete softmig run --memory 4G ls --mem)" ] # ls's option, not ours
	[ "$(complete softmig slice '')" = "create
delete
fail
resize" ]
	[ "$(complete softmig slice create --gi)" = --gid ]
	[ -z "$(complete softmig slice create --gpu '')" ]
	for verb in $(verbs); do
		[[ "$(complete softmig "$verb" --)" == *--help* ]] || { echo "$verb"; return 1; }
	done
}
