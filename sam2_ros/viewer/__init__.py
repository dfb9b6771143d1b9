"""The web viewer: a page that shows what a running tracker sees, and on which objects are added by clicking.

A ROS 2 client of the node's public topics and services on one side, a small web server on the other:

``discovery``, ``camera``, ``commands``  the ROS side: which cameras there are, pictures and tracks, services
``packets``                              a picture with its tracks as bytes for the browser
``hub``                                  between the ROS thread and the event loop
``access``, ``session``, ``server``      the web side: who may connect, one browser's stream, the server
``static/``                              the page: plain ES modules and CSS, served as they are
"""
