// SPDX-License-Identifier: Apache-2.0
// See plot.h. gnuplot reads from one unnamed file and writes to another: no name of ours or of the user's comes into its language.
#include "cli/plot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/files.h"

enum { NOT_FOUND = 127, LARGEST_PICTURE = 16 << 20, MINUTE = 60, HOUR = 3600, DAY = 86400 };

struct unit {
	const char *name;
	double seconds;
};

static struct unit unit_of(uint64_t seconds)
{
	if (seconds <= UINT64_C(3) * MINUTE)
		return (struct unit){ "seconds", 1 };
	if (seconds <= UINT64_C(3) * HOUR)
		return (struct unit){ "minutes", MINUTE };
	return seconds <= UINT64_C(3) * DAY ? (struct unit){ "hours", HOUR } : (struct unit){ "days", DAY };
}

static void print_memory(const struct softmig_summary *summary, double unit_s, FILE *out)
{
	for (int i = 0; i < summary->points; i++)
		fprintf(out, "%.6f %.4f\n", summary->point[i].second / unit_s, summary->point[i].used_mib / 1024.0);
	fputs("e\n", out);
}

// Percent of the time between one point and the next.
static void print_rate(const struct softmig_summary *summary, double unit_s, bool throttled, FILE *out)
{
	for (int i = 0; i < summary->points; i++) {
		const struct softmig_series_point *to = &summary->point[i];
		struct softmig_series_point from = i > 0 ? summary->point[i - 1] : (struct softmig_series_point){ 0 };
		double used_ms = throttled ? to->throttled_ms - from.throttled_ms : to->busy_ms - from.busy_ms;
		double passed_ms = (to->second - from.second) * 1000.0 * (summary->gpus > 0 ? summary->gpus : 1);
		double pct = passed_ms > 0 ? used_ms / passed_ms * 100 : 0;
		fprintf(out, "%.6f %.3f\n", to->second / unit_s, pct < 100 ? pct : 100);
	}
	fputs("e\n", out);
}

void softmig_plot_script(const struct softmig_summary *summary, FILE *out)
{
	uint64_t seconds = summary->ended_s - summary->began_s;
	struct unit unit = unit_of(seconds);
	double limit_gib = 0, share_pct = 0;
	bool limited = summary->gpus > 0;
	for (int i = 0; i < summary->gpus; i++) {
		limited &= summary->gpu[i].limit_bytes > 0;
		limit_gib += (double)summary->gpu[i].limit_bytes / (1 << 30);
		share_pct += (double)summary->gpu[i].sm_pct / summary->gpus;
	}
	fprintf(out,
	        "set terminal pngcairo size 1000,700\nset multiplot layout 2,1 title 'Job %" PRIu64 "'\n"
	        "set xrange [0:%.6f]\nset grid\nset key outside right top\nset lmargin 10\nset rmargin 16\nset xlabel '%s'\nset ylabel 'memory, GiB'\n",
	        summary->job, (seconds ? (double)seconds : 1) / unit.seconds, unit.name);
	if (limited)
		fprintf(out, "set yrange [0:%.4f]\n", limit_gib * 1.05);
	else
		fputs("set yrange [0:*]\n", out);
	fputs("plot '-' using 1:2 with steps linewidth 2 title 'used'", out);
	if (limited)
		fprintf(out, ", %.4f with lines dashtype 2 title 'limit'", limit_gib);
	fputs("\n", out);
	print_memory(summary, unit.seconds, out);
	fputs("set ylabel 'GPU time, %'\nset yrange [0:100]\nplot '-' using 1:2 with fsteps linewidth 2 title 'used', "
	      "'-' using 1:2 with fsteps title 'throttled'",
	      out);
	if (share_pct > 0 && share_pct < 100)
		fprintf(out, ", %.2f with lines dashtype 2 title 'share'", share_pct);
	fputs("\n", out);
	print_rate(summary, unit.seconds, false, out);
	print_rate(summary, unit.seconds, true, out);
	fputs("unset multiplot\n", out);
}

static int fail(const char *what, int error, char *why, size_t why_size)
{
	snprintf(why, why_size, "%s: %s", what, strerror(error));
	return -1;
}

// The status of gnuplot, or -1.
static int run_gnuplot(FILE *script, FILE *picture)
{
	pid_t child = fork();
	if (child == 0) {
		if (dup2(fileno(script), STDIN_FILENO) < 0 || dup2(fileno(picture), STDOUT_FILENO) < 0)
			_exit(1);
		unsetenv("GNUTERM");
		execlp("gnuplot", "gnuplot", "--default-settings", (char *)NULL);
		_exit(errno == ENOENT ? NOT_FOUND : 1);
	}
	int status = -1;
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
	}
	return child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int keep_picture(FILE *picture, const char *path, char *why, size_t why_size)
{
	static const char png[] = "\x89PNG";
	struct softmig_file anew = { .exists = false };
	off_t length = lseek(fileno(picture), 0, SEEK_END);
	char *text = length > 0 && length < LARGEST_PICTURE ? malloc((size_t)length) : NULL;
	bool good = text && pread(fileno(picture), text, (size_t)length, 0) == length && length > 8 && memcmp(text, png, 4) == 0;
	int error = good ? softmig_file_replace(path, text, (size_t)length, &anew) : 0;
	free(text);
	if (!good)
		snprintf(why, why_size, "gnuplot made no picture");
	else if (error)
		snprintf(why, why_size, "%s cannot be written: %s", path, softmig_file_why(error));
	return good && !error ? 0 : -1;
}

static int draw(FILE *script, FILE *picture, const char *path, char *why, size_t why_size)
{
	int status = run_gnuplot(script, picture);
	if (status == 0)
		return keep_picture(picture, path, why, why_size);
	snprintf(why, why_size, status == NOT_FOUND ? "gnuplot is not installed; on Debian, apt install gnuplot-nox" : "gnuplot failed");
	return -1;
}

int softmig_plot(const struct softmig_summary *summary, const char *path, char *why, size_t why_size)
{
	if (summary->points < 2) {
		snprintf(why, why_size, "job %" PRIu64 " has no course to draw: its limit file was never looked at again after it began to use its GPU", summary->job);
		return -1;
	}
	FILE *script = tmpfile(), *picture = tmpfile();
	int result = -1;
	if (!script || !picture) {
		fail("a temporary file cannot be made", errno, why, why_size);
	} else {
		softmig_plot_script(summary, script);
		if (fflush(script) != 0 || lseek(fileno(script), 0, SEEK_SET) < 0)
			fail("a temporary file cannot be written", errno, why, why_size);
		else
			result = draw(script, picture, path, why, why_size);
	}
	if (script)
		fclose(script);
	if (picture)
		fclose(picture);
	return result;
}
