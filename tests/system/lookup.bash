# SPDX-License-Identifier: Apache-2.0
# Callers of dlsym in several libraries, for any compiler. For bats files: load lookup; lookup_build COMPILER DIRECTORY; lookup_judge COMMAND...

lookup_build() {
	local programs=${SOURCE:?}/tests/system/programs/lookup library
	mkdir -p "$2"
	echo '{ global: *; };' >"$2/first.map"
	echo 'LOOKUP_1 { global: *; };' >"$2/second.map"
	echo '{ global: *; };' >"$2/local.map"
	for library in first second local; do
		"$1" -shared -fPIC -O1 -Wall -Wextra -Werror -o "$2/lib$library.so" "$programs/$library.c" \
			"-Wl,--version-script=$2/$library.map" -ldl
	done
	"$1" -O1 -Wall -Wextra -Werror -rdynamic -o "$2/lookup" "$programs/main.c" -L"$2" -Wl,--no-as-needed -lfirst -lsecond "-Wl,-rpath,$2" -ldl
}

# COMMAND runs lookup with the library preloaded: every caller finds what it would find without.
lookup_judge() {
	diff - <("$@" 2>&1) <<-'END'
		after main: first
		after first: second
		after first, of a version: second
		after first, named like the driver's: second
		after first, named like the driver's, of a version: second
		after first, a name of the driver's: nothing
		local, by default: 1
		main, by default: 0
	END
}
