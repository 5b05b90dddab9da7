// SPDX-License-Identifier: Apache-2.0
// What every verb of the softmig command has in common. Owns: the shape of a verb, its exit statuses, its options, its
// way of complaining. Must never: know what any one verb does.
#ifndef SOFTMIG_CLI_CLI_H
#define SOFTMIG_CLI_CLI_H
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>

enum softmig_exit { SOFTMIG_EXIT_OK = 0, SOFTMIG_EXIT_FAILED = 1, SOFTMIG_EXIT_USAGE = 2 };

struct softmig_verb {
	const char *name;
	const char *arguments; // what follows the name in the usage line
	const char *summary;   // one line for softmig --help
	const char *help;      // the options and what else a user must know, lines ending in a newline
	// argv[0] is the verb's name. Returns an exit status.
	int (*run)(int argc, char **argv);
};

// Every verb is a const struct softmig_verb softmig_verb_NAME in a file of its own and one line of verbs.def.
#define VERB(name) extern const struct softmig_verb softmig_verb_##name;
#include "cli/verbs.def"
#undef VERB

// getopt_long without its messages: returns the option's value, -1 after the last one. 'h' (--help, which every verb has)
// has printed the help: return SOFTMIG_EXIT_OK. '?' has printed what is wrong: return SOFTMIG_EXIT_USAGE.
// Stops at the first word that is no option. options ends with an all-zero entry and need not name help.
int softmig_cli_option(const struct softmig_verb *verb, int argc, char **argv, const struct option *options);

// "softmig VERB: MESSAGE" on stderr, one sentence without a full stop. Each returns the exit status to return.
int softmig_cli_usage(const struct softmig_verb *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
int softmig_cli_fail(const struct softmig_verb *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));
// The same, for what the user should know although the verb goes on.
void softmig_cli_warn(const struct softmig_verb *verb, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum softmig_style { SOFTMIG_STYLE_PLAIN, SOFTMIG_STYLE_BOLD, SOFTMIG_STYLE_DIM, SOFTMIG_STYLE_GOOD, SOFTMIG_STYLE_WARN,
	             SOFTMIG_STYLE_BAD };
// The escape sequence that begins a style on stdout; empty unless stdout is a terminal that takes colours (NO_COLOR, TERM=dumb).
const char *softmig_cli_style(enum softmig_style style);
#endif
