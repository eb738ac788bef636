#ifndef PLIM_DIRECTORY_H
#define PLIM_DIRECTORY_H

/*
 * Directories that are in use as long as somebody holds a lock on them. Whoever dies lets go of it, whatever killed him: so
 * what is not locked was left behind, and can be removed.
 */

/* Opens and locks it; `how` is flock's. Close what comes back to unlock it; -1 with errno when somebody else has it. */
int directory_lock(const char *path, int how);

/* Removes it with all that is in it: links, not what they lead to. What can't be removed stays. */
void directory_remove(const char *path);

#endif
