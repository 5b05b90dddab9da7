// SPDX-License-Identifier: Apache-2.0
// libsecond.so: comes after libfirst.so and has functions of the same names, of version LOOKUP_1.
const char *marker(void);
const char *marker(void)
{
	return "second";
}

const char *cuMarkerOfNobody(void);
const char *cuMarkerOfNobody(void)
{
	return "second";
}
