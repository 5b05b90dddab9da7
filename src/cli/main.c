// SPDX-License-Identifier: Apache-2.0
// The softmig command: finds the verb and hands over. Owns: the table of verbs, --help, --version, complaints.
// Must never: do a verb's work.
#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct softmig_verb *const verbs[] = {
#define VERB(name) &softmig_verb_##name,
#include "cli/verbs.def"
#undef VERB
};
enum { VERBS = sizeof verbs / sizeof verbs[0], OPTIONS_MAX = 16 };

static void __attribute__((format(printf, 2, 0))) complain(const struct softmig_verb *verb, const char *format, va_list arguments)
{
	fflush(stdout);
	fputs("softmig", stderr);
	if (verb)
		fprintf(stderr, " %s", verb->name);
	fputs(": ", stderr);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

int softmig_cli_usage(const struct softmig_verb *verb, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	complain(verb, format, arguments);
	va_end(arguments);
	return SOFTMIG_EXIT_USAGE;
}

int softmig_cli_fail(const struct softmig_verb *verb, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	complain(verb, format, arguments);
	va_end(arguments);
	return SOFTMIG_EXIT_FAILED;
}

void softmig_cli_warn(const struct softmig_verb *verb, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	complain(verb, format, arguments);
	va_end(arguments);
}

const char *softmig_cli_style(enum softmig_style style)
{
	static int colours = -1;
	if (colours < 0) {
		const char *terminal = getenv("TERM");
		const char *refused = getenv("NO_COLOR");
		colours = isatty(STDOUT_FILENO) && terminal && strcmp(terminal, "dumb") != 0 && !(refused && *refused);
	}
	if (!colours)
		return "";
	switch (style) {
	case SOFTMIG_STYLE_BOLD:
		return "\033[1m";
	case SOFTMIG_STYLE_DIM:
		return "\033[2m";
	case SOFTMIG_STYLE_GOOD:
		return "\033[32m";
	case SOFTMIG_STYLE_WARN:
		return "\033[33m";
	case SOFTMIG_STYLE_BAD:
		return "\033[31m";
	case SOFTMIG_STYLE_PLAIN:
		break;
	}
	return "\033[0m";
}

static void print_verb_help(const struct softmig_verb *verb)
{
	printf("Usage: softmig %s%s%s\n%s.\n\n%s", verb->name, *verb->arguments ? " " : "", verb->arguments, verb->summary, verb->help);
}

int softmig_cli_option(const struct softmig_verb *verb, int argc, char **argv, const struct option *options)
{
	struct option all[OPTIONS_MAX] = { { "help", no_argument, NULL, 'h' } };
	size_t count = 1;
	for (; options[count - 1].name && count < OPTIONS_MAX - 1; count++)
		all[count] = options[count - 1];
	opterr = 0;
	const char *word = argv[optind]; // afterwards optind may be before it, at it, or behind it
	int option = getopt_long(argc, argv, "+:h", all, NULL);
	if (option == 'h')
		print_verb_help(verb);
	else if (option == ':')
		softmig_cli_usage(verb, "option %s needs a value", word);
	else if (option == '?')
		softmig_cli_usage(verb, "option '%s' is not understood; see softmig %s --help", word, verb->name);
	return option == ':' ? '?' : option;
}

static void print_help(void)
{
	puts("Usage: softmig VERB [options]\nSlices of NVIDIA GPUs: run programs in them, look at them, manage them.\n\nVerbs:");
	for (size_t i = 0; i < VERBS; i++)
		printf("  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
	puts("\nsoftmig VERB --help and man softmig-VERB say more.\n"
	     "Exit status: 0 done, 1 failed, 2 wrong usage.");
}

// What was printed must have arrived (a full disk, a closed pipe): a script that reads half a table must not see status 0.
static int finish(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	fprintf(stderr, "softmig: the output could not be written: %s\n", strerror(errno));
	return status ? status : SOFTMIG_EXIT_FAILED;
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return softmig_cli_usage(NULL, "a verb is missing; see softmig --help");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		print_help();
		return finish(SOFTMIG_EXIT_OK);
	}
	if (strcmp(argv[1], "--version") == 0) {
		puts("softmig " SOFTMIG_VERSION);
		return finish(SOFTMIG_EXIT_OK);
	}
	for (size_t i = 0; i < VERBS; i++)
		if (strcmp(argv[1], verbs[i]->name) == 0)
			return finish(verbs[i]->run(argc - 1, argv + 1));
	return softmig_cli_usage(NULL, "'%s' is not a verb; see softmig --help", argv[1]);
}
