#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# nvidia-smi-hook.sh: stands in for nvidia-smi on nodes with slices; NVIDIA's own tool is beside it as nvidia-smi.real.
# Inside a Slurm job it leaves out the processes of others (the tool takes its process rows from the driver by a private door, where
# libsoftmig.so cannot filter them): in the table, -q (text and XML), pmon, --query-compute-apps, --query-accounted-apps. Same
# arguments, same exit status. Root and processes outside any job see all.
set -u
self=$(readlink -f "${BASH_SOURCE[0]}") # it may have been called through a link
real=${self%/*}/nvidia-smi.real
[ -x "$real" ] || { echo "nvidia-smi: $real is missing; rename NVIDIA's nvidia-smi to that" >&2; exit 1; }

# The Slurm job in the cgroup file $1, as libsoftmig.so finds it; nothing if there is none.
job_of() { sed -nE 's#.*(/uid_[0-9]+|slurmstepd\.scope)/job_([0-9]+)(/.*)?$#\2#p' "$1" 2>/dev/null | head -n 1; }

job=
[ "$(id -u)" -eq 0 ] || job=$(job_of /proc/self/cgroup)
[ -n "$job" ] || exec "$real" "$@"

# What is asked for: a list of applications (its fields), a file to write to, the process monitor, XML or not.
arguments=() list='' output='' mode=table
while [ $# -gt 0 ]; do
	case "$1" in
	--query-compute-apps=* | --query-accounted-apps=*) mode=apps list=${1#*=} arguments+=("${1%%=*}=pid,$list") ;;
	--query-compute-apps | --query-accounted-apps)
		if [ $# -gt 1 ]; then mode=apps list=$2 arguments+=("$1=pid,$list"); shift; else arguments+=("$1"); fi ;;
	-f | --filename) if [ $# -gt 1 ]; then output=$2; shift; else arguments+=("$1"); fi ;;
	--filename=*) output=${1#*=} ;;
	pmon) [ ${#arguments[@]} -eq 0 ] && mode=pmon; arguments+=("$1") ;;
	-x | --xml-format) mode=xml arguments+=("$1") ;;
	*) arguments+=("$1") ;;
	esac
	shift
done
if [ $mode = pmon ] && [ -n "$output" ]; then arguments+=(-f "$output") output=/dev/null; fi

# shellcheck disable=SC2016 # awk's dollars
# own(pid): does the process belong to this job now? Its cgroup says so.
filter='
function own(pid,   file, line, found) {
	if (pid !~ /^[0-9]+$/) return 1
	file = "/proc/" pid "/cgroup"; found = 0
	while ((getline line < file) > 0)
		if (line ~ "(/uid_[0-9]+|slurmstepd[.]scope)/job_" job "(/|$)") found = 1
	close(file)
	return found
}
# --query-...-apps: the first column is the pid, which we asked for; the rest is what the user asked for.
mode == "apps" {
	comma = index($0, ", ")
	if (comma == 0) { print; fflush(); next }
	pid = substr($0, 1, comma - 1)
	if (own(pid)) { print substr($0, comma + 2); fflush() }
	next
}
# pmon: the header names the column.
mode == "pmon" {
	if ($0 ~ /^#/) {
		line = $0; sub(/^# */, "", line); columns = split(line, names, " ")
		for (i = 1; i <= columns; i++) if (names[i] == "pid") column = i
		print; fflush(); next
	}
	if (column == 0 || own($column)) { print; fflush() }
	else if ($column ~ /^[0-9]+$/ && !($1 in quiet)) others++
	next
}
# XML: a process is an element of its own.
mode == "xml" && /<process_info>|<accounted_process_info>/ { block = $0; pid = ""; inside = 1; next }
mode == "xml" && inside {
	block = block "\n" $0
	if ($0 ~ /<pid>/) { pid = $0; gsub(/[^0-9]/, "", pid) }
	if ($0 ~ /<\/process_info>|<\/accounted_process_info>/) { inside = 0; if (own(pid)) print block }
	next
}
# -q: a list of blocks, each with a line "Process ID"; an empty list says None.
function flush_block() { if (block != "" && own(pid)) { if (!shown) print section; print block; shown = 1 } block = ""; pid = "" }
function end_section() { flush_block(); if (!shown) printf "%-38s: None\n", section; section = "" }
mode == "table" && /^    (Processes|Accounted Processes)$/ { section = $0; shown = 0; block = ""; pid = ""; next }
mode == "table" && section != "" {
	if ($0 !~ /^        /) { end_section(); print; next }
	if ($0 ~ /^        (GPU instance ID|Process ID)/ && (pid != "" || $0 ~ /GPU instance ID/)) flush_block()
	if ($0 ~ /^        Process ID/) { pid = $NF }
	block = block == "" ? $0 : block "\n" $0
	next
}
# The table: rows below "Processes:"; the pid is the first number after the two instance columns.
mode == "table" && /^\| Processes:/ { rows = 1; any = 0; print; next }
mode == "table" && rows && /^\| +[0-9]+ +[^ ]+ +[^ ]+ +[0-9]+ / {
	if (own($5)) { print; any = 1 } else hidden = 1
	next
}
mode == "table" && rows && /^\+-+\+$/ {
	if (hidden && !any) printf "|  %-*s|\n", length($0) - 4, "No running processes found"
	rows = 0; hidden = 0; print; fflush(); next
}
{ print; fflush() }
END { if (section != "") end_section() }'

# bash before 4.4 takes an empty array for an unset variable
if [ -n "$output" ]; then
	"$real" ${arguments[@]+"${arguments[@]}"} | awk -v job="$job" -v mode="$mode" "$filter" >"$output"
else
	"$real" ${arguments[@]+"${arguments[@]}"} | awk -v job="$job" -v mode="$mode" "$filter"
fi
exit "${PIPESTATUS[0]}"
