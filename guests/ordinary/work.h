/* The work; a guest and a Linux program print the same. */
#ifndef ORDINARY_WORK_H
#define ORDINARY_WORK_H

void work(void);

#endif
