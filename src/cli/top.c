// SPDX-License-Identifier: Apache-2.0
// softmig top: status or list, again and again on a terminal. Owns: the terminal while it runs, which it gives back as it was,
// also when it is killed by a signal that can be caught.
#include "cli/cli.h"
#include "cli/view_print.h"
#include "slice/format.h"
#include "slice/job.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

static const struct softmig_verb *const self = &softmig_verb_top;

static volatile sig_atomic_t stopped;

static void stop(int number)
{
	stopped = number;
}

static bool has_keys;
static struct termios before;

// Another screen without cursor and without wrapping; keys come at once and unseen.
static void take_terminal(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction action = { .sa_handler = stop };
	for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
		sigaction(signals[i], &action, NULL);
	has_keys = tcgetattr(STDIN_FILENO, &before) == 0;
	if (has_keys) {
		struct termios keys = before;
		keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		keys.c_cc[VSUSP] = _POSIX_VDISABLE; // a stopped top would leave the shell on the other screen
		tcsetattr(STDIN_FILENO, TCSADRAIN, &keys);
	}
	fputs("\033[?1049h\033[?25l\033[?7l", stdout);
}

static void give_terminal_back(void)
{
	fputs("\033[?7h\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	if (has_keys)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
}

static unsigned rows(void)
{
	struct winsize size;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 2 ? size.ws_row : 24;
}

// Over the old picture, line by line: nothing flickers.
static void show(const char *text)
{
	unsigned left = rows() - 1;
	fputs("\033[H", stdout);
	for (const char *line = text; *line && left > 0; left--) {
		size_t length = strcspn(line, "\n");
		fwrite(line, 1, length, stdout);
		fputs("\033[K\n", stdout);
		line += length + (line[length] == '\n');
	}
	printf("\033[J%sq quits%s", softmig_cli_style(SOFTMIG_STYLE_DIM), softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	fflush(stdout);
}

// One slice if there is one to show, else all of this machine.
static void render(FILE *out, uint64_t job)
{
	struct softmig_view view;
	enum softmig_view_status status = job ? softmig_view_job(&view, job) : softmig_view_process(&view, 0);
	if (status == SOFTMIG_VIEW_OK)
		softmig_view_print(out, &view);
	else if (status == SOFTMIG_VIEW_FAILED)
		fprintf(out, "%s\n", view.why);
	else if (job)
		fprintf(out, "Job %llu has no slice on this node.\n", (unsigned long long)job);
	else
		softmig_list_print(out);
	softmig_view_free(&view);
}

// Waits for a key or the time to look again. True: go on.
static bool wait_for_key(uint64_t seconds)
{
	struct pollfd keys = { .fd = has_keys ? STDIN_FILENO : -1, .events = POLLIN };
	if (poll(&keys, 1, (int)seconds * 1000) <= 0)
		return !stopped;
	char key;
	return !stopped && read(STDIN_FILENO, &key, 1) == 1 && key != 'q' && key != 'Q';
}

static int watch(uint64_t job, uint64_t seconds)
{
	bool good = true;
	take_terminal();
	do {
		char *text = NULL;
		size_t length = 0;
		FILE *out = open_memstream(&text, &length);
		good = out != NULL;
		if (out) {
			render(out, job);
			good = fclose(out) == 0;
		}
		if (good)
			show(text);
		free(text);
	} while (good && wait_for_key(seconds));
	give_terminal_back();
	if (stopped && stopped != SIGINT) { // whoever sent it wants to see that it worked
		signal(stopped, SIG_DFL);
		raise(stopped);
	}
	return good ? SOFTMIG_EXIT_OK : softmig_cli_fail(self, "memory is short");
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "job", required_argument, NULL, 'J' },
		{ "interval", required_argument, NULL, 'i' },
		{ 0 },
	};
	uint64_t job = 0, seconds = 1;
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		switch (option) {
		case 'J':
			job = softmig_job_parse_id(optarg, strlen(optarg));
			if (!job)
				return softmig_cli_usage(self, "--job needs a job's number, not '%s'", optarg);
			break;
		case 'i':
			if (!softmig_parse_decimal(optarg, strlen(optarg), 3600, &seconds) || seconds == 0)
				return softmig_cli_usage(self, "--interval needs seconds from 1 to 3600, not '%s'", optarg);
			break;
		case 'h':
			return SOFTMIG_EXIT_OK;
		default:
			return SOFTMIG_EXIT_USAGE;
		}
	}
	if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	if (!isatty(STDOUT_FILENO))
		return softmig_cli_fail(self, "this needs a terminal; use softmig status or softmig list");
	return watch(job, seconds);
}

const struct softmig_verb softmig_verb_top = {
	.name = "top",
	.arguments = "[--job ID] [--interval SECONDS]",
	.summary = "Show the slice, or all of this machine, live",
	.help = "Options:\n"
	        "  --job ID             the slice of this Slurm job on this node\n"
	        "  --interval SECONDS   between two looks (default 1)\n"
	        "  --help               this text\n\n"
	        "In a slice it shows that slice as softmig status does, elsewhere all slices as softmig list does. q quits.\n",
	.run = run,
};
