/* What the compiler cannot know of the path of an exit that C serves: there each instruction counts. */
#ifndef NV_LIKELY_H
#define NV_LIKELY_H

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#endif
